"""Where the options of `serve` may come from, and what is said of those that are wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rejection_server.parser import parse


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("REJECTION_")]:
        monkeypatch.delenv(name)


def port(*arguments: str) -> int:
    found = parse(["serve", *arguments])[0].grpc_port
    assert isinstance(found, int)
    return found


def test_command_line_before_environment_before_file_before_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("grpc-port = 3\n")
    assert port() == 8001
    assert port("--config", str(file)) == 3
    monkeypatch.setenv("REJECTION_CONFIG", str(file))
    assert port() == 3
    monkeypatch.setenv("REJECTION_GRPC_PORT", "2")
    assert port() == 2
    assert port("--grpc-port", "1") == 1
    assert port("--grpc-port=1", "--config", str(file)) == 1
    monkeypatch.setenv("REJECTION_GRPC_PORT", "")  # as good as none
    assert port() == 3


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, expected: bool) -> None:
    monkeypatch.setenv("REJECTION_NO_GUARD", value)
    assert parse(["serve"])[0].no_guard is expected
    monkeypatch.delenv("REJECTION_NO_GUARD")
    file = tmp_path / "serve.toml"
    file.write_text(f"no-guard = {value or 'false'}\n" if value != "1" else 'no-guard = "yes"\n')
    assert parse(["serve", "--config", str(file)])[0].no_guard is expected


def test_weights_from_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def weights(*arguments: str) -> object:
        return parse(["serve", *arguments])[0].weight

    file = tmp_path / "serve.toml"
    file.write_text('weight = "a=2,b=0.5"\n')
    assert weights() == {}
    assert weights("--weight", "a=1", "--weight=b=3,c=2") == {"a": 1, "b": 3, "c": 2}
    assert weights() == {}, "the default is nobody's to change"
    assert weights("--config", str(file)) == {"a": 2, "b": 0.5}
    monkeypatch.setenv("REJECTION_WEIGHT", "a=4")
    assert weights("--config", str(file)) == {"a": 4}


@pytest.mark.parametrize("text", ["toxicity", "=2", "a=0", "a=-1", "a=x", "a=inf", "a=1,", "a=nan"])
def test_what_is_no_weight(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["serve", "--weight", text])
    assert "is no weight: give NAME=N, N above 0" in capsys.readouterr().err


def test_what_is_no_option_may_follow_two_dashes_only() -> None:
    assert parse(["serve", "--cores=2", "--", "--grpc-port=7", "--help"])[1] == ["--grpc-port=7", "--help"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grpc-prot = 1", "serve.toml has the key 'grpc-prot', which is no option"),
        ("[serve]\ngrpc-port = 1", "serve.toml has a dict at 'serve': give a string, a number, true or false"),
        ("cores = [1]", "serve.toml has a list at 'cores'"),
        ("metrics-port = off", "serve.toml is no TOML: Invalid value (at line 1, column 16)"),
        ("metrics-port = 'some'", "argument --metrics-port: 'some' is neither a port nor off (from "),
        ("no-guard = 'perhaps'", "Unexpected value for no-guard: 'perhaps'"),
        ('config = "other.toml"', "serve.toml has the key 'config', which no file can set"),
        ("help = true", "serve.toml has the key 'help', which no file can set"),
        (None, "serve.toml"),
    ],
)
def test_wrong_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str) -> None:
    file = tmp_path / "serve.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit) as exit_:
        parse(["serve", "--config", str(file)])
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def test_a_file_of_an_editor_of_windows(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_bytes(b"\xef\xbb\xbfgrpc-port = 9001\r\n")
    assert parse(["serve", "--config", str(file)])[0].grpc_port == 9001


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # What Kubernetes sets for a service named rejection-grpc.
    monkeypatch.setenv("REJECTION_GRPC_PORT", "tcp://10.0.0.1:8001")
    with pytest.raises(SystemExit):
        parse(["serve"])
    assert "--grpc-port: invalid int value: 'tcp://10.0.0.1:8001' (from REJECTION_GRPC_PORT)" in capsys.readouterr().err
    assert port("--grpc-port=1") == 1


def test_what_is_printed_is_a_file_that_comes_to_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('cache-size = "1M"\nno-guard = true\nmetrics-port = "off"\n')
    monkeypatch.setenv("REJECTION_HOST", "::1")
    monkeypatch.setenv("REJECTION_HSOT", "::1")
    monkeypatch.setenv("REJECTION_TRITON", "/opt/tritonserver")
    arguments = ["serve", "--config", str(file), "--repository", 'a "b"\\ü']
    with pytest.raises(SystemExit) as exit_:
        parse([*arguments, "--print-config"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    said = {line.partition("  #")[0].rstrip(): line.rpartition("# ")[2] for line in printed.splitlines()}
    assert said['host = "::1"'] == "REJECTION_HOST"
    assert said["no-guard = true"] == said["cache-size = 1048576"] == said['metrics-port = "off"'] == str(file)
    assert said["grpc-port = 8001"] == "default"
    assert said['repository = "a \\"b\\"\\\\ü"'] == "command line"
    assert said["# cores"] == "not set"
    assert "# REJECTION_HSOT is set in the environment and is no option" in printed
    assert "REJECTION_TRITON" not in printed, "it is none, but heeded"
    given = parse(arguments)[0]
    monkeypatch.delenv("REJECTION_HOST")
    again = tmp_path / "again.toml"
    again.write_text(printed, encoding="utf-8")
    assert vars(parse(["serve", "--config", str(again)])[0]) == {**vars(given), "config": str(again)}


def test_help_needs_nothing_installed() -> None:
    program = (
        "import sys; sys.modules['configargparse'] = None\n"
        "from rejection_server.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    run = [sys.executable, "-c", program, "serve"]
    helped = subprocess.run([*run, "--help"], capture_output=True, text=True)
    assert helped.returncode == 0
    assert "--config FILE" in helped.stdout
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the Python package configargparse is not installed" in done.stderr
