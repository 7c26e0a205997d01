"""What is carried to a GPU machine arrives whole, or is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu import carry
from rejection_server.host.machine import PYTHON_VERSIONS

CONTENT = {"one.whl": bytes(range(256)) * 40, "source.tar": b"", "two.whl": b"short"}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "files"
    (folder / "packed").mkdir(parents=True)
    (folder / "packed" / "README").write_text("source\n")
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    subprocess.run(["tar", "-cf", folder / "source.tar", "-C", folder / "packed", "."], check=True)
    return [folder / name for name in CONTENT]


def program(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The program as it lies beside the pieces, in a Python that knows nothing of this checkout."""
    asked = [sys.executable, "-I", "-S", *map(str, arguments)]
    return subprocess.run(asked, capture_output=True, text=True, check=False)


def test_pieces_become_the_files_again(files: list[Path], tmp_path: Path) -> None:
    pieces = tmp_path / "pieces"
    count = carry.cut(files, pieces, 4096)
    assert max(path.stat().st_size for path in pieces.iterdir() if path.name != carry.MANIFEST) <= 4096
    assert count == len(list(pieces.iterdir())) - 1
    whole, faults = carry.join(pieces, tmp_path / "there")
    assert faults == []
    assert [path.read_bytes() for path in whole] == [path.read_bytes() for path in files]


def test_what_did_not_come_whole_is_named_and_the_rest_is_kept(files: list[Path], tmp_path: Path) -> None:
    pieces = tmp_path / "pieces"
    carry.cut(files, pieces, 4096)
    (pieces / "one.whl.001").unlink()
    damaged = pieces / "source.tar.000"
    damaged.write_bytes(b"\0" + damaged.read_bytes()[1:] if damaged.read_bytes()[0] else b"\1")
    into = tmp_path / "there"
    done = program(carry.__file__, "unpack", pieces, "--into", into)
    assert done.returncode == 1
    assert (
        "2 pieces have not come whole, carry them again: one.whl.001 is missing, source.tar.000 is damaged"
        in done.stderr
    )
    assert [path.name for path in (into / "files").iterdir()] == ["two.whl"]

    carry.cut(files, pieces, 4096)
    done = program(carry.__file__, "unpack", pieces, "--into", into)
    assert done.returncode == 0, done.stderr
    assert (into / "source" / "README").read_text() == "source\n"
    assert "pip install --no-index --no-deps" in done.stdout
    assert "-m bench gpu" in done.stdout


def test_cutting_again_makes_only_what_is_missing(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = tmp_path / "pieces"
    carry.cut(files, pieces, 4096)
    (pieces / "one.whl.001").write_bytes(b"cut short")
    capsys.readouterr()
    carry.cut(files[:1], pieces, 4096)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["one.whl.001:"]
    assert {path.name.partition(".whl")[0] for path in pieces.iterdir()} == {"one", carry.MANIFEST}, (
        "the others are stale"
    )


def test_without_a_list_nothing_is_guessed(tmp_path: Path) -> None:
    done = program(carry.__file__, "unpack", tmp_path, "--into", tmp_path / "there")
    assert (done.returncode, done.stdout) == (1, "")
    assert "holds no readable manifest.json: carry that file over first" in done.stderr


def test_an_unknown_kind_is_told(tmp_path: Path) -> None:
    done = program(carry.__file__, "pack", tmp_path / "carried", "--kind", "no-such-kind")
    assert done.returncode == 1
    assert "requirements.lock knows no kind 'no-such-kind'" in done.stderr


def test_a_python_that_the_server_does_not_run_on_is_refused(tmp_path: Path) -> None:
    done = program(carry.__file__, "pack", tmp_path / "carried", "--python", "2.7")
    assert done.returncode == 2
    assert "--python: invalid choice: '2.7' (choose from " in done.stderr
    assert tuple(f"{major}.{minor}" for major, minor in PYTHON_VERSIONS) == carry.PYTHONS
