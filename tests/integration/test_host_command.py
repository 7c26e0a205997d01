"""The command `serve`: what it says and returns when it cannot serve."""

import os
import re
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.limited import limited
from support.repository import ROOT


def serve(
    *arguments: str, address_space: int = resource.RLIM_INFINITY, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command; `address_space` is what a process may have, in bytes."""
    command = [sys.executable, "-m", "rejection_server", "serve", *arguments]
    return subprocess.run(
        limited(command, resource.RLIMIT_AS, address_space),
        env={**os.environ, "REJECTION_SCRIPTS": "scripts", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], status: int, words: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if not line.startswith(("Loading the models", "/dev/shm has"))]
    assert len(said) == 1, done.stderr
    assert re.search(words, said[0])


def model(folder: Path, config: str, code: str | None = None) -> str:
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "config.pbtxt").write_text(config)
    if code is not None:
        (folder / "broken" / "1" / "model.py").write_text(code)
    return str(folder)


def test_help_teaches() -> None:
    done = serve("--help")
    assert done.returncode == 0
    for words in ("scripts/serve --host 0.0.0.0", "examples:", "exit status:", "-- goes to tritonserver"):
        assert words in done.stdout


def test_missing_repository(tmp_path: Path) -> None:
    assert_one_sentence(serve("--repository", str(tmp_path / "x")), 1, r"no model repository at .*/x: .*--repository")


def test_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = serve("--grpc-port", port, "--metrics-port", "off")
        assert_one_sentence(done, 1, f"port {port} of 127.0.0.1, wanted for gRPC, is already in use: .*--grpc-port")


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        ('backend: "tensorrt"', None, "model 'broken' could not be loaded: unable to find backend library"),
        ('backend: "python"', "raise SystemError('no weights')", "model 'broken' could not be loaded: .*no weights"),
        ('backend: "python"', None, "Python model file not found in .*broken/1/model.py"),
        ("no such field: 1", None, r"model 'broken' could not be loaded: .*\(line 1, column"),
    ],
)
def test_broken_models(tmp_path: Path, config: str, code: str | None, words: str) -> None:
    repository = model(tmp_path / "repository", config, code)
    assert_one_sentence(serve("--repository", repository, "--grpc-port", "0", "--metrics-port", "off"), 1, words)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--no-such-option=1", "unrecognized option '--no-such-option=1'"),
        ("--exit-timeout-secs=soon", "value given to --exit-timeout-secs"),
        ("--grpc-port=1", "--grpc-port cannot follow `--`: use --grpc-port instead"),
    ],
)
def test_wrong_triton_arguments(tmp_path: Path, argument: str, words: str) -> None:
    repository = model(tmp_path / "repository", 'backend: "python"', "")
    done = serve("--repository", repository, "--grpc-port", "0", "--metrics-port", "off", "--", argument)
    assert_one_sentence(done, 2, words)


IS_TEMPORARY = any(Path(folder) in Path(sys.prefix).parents for folder in ("/tmp", "/var/tmp"))


def in_a_changed_system(changes: str) -> subprocess.CompletedProcess[str]:
    """The command where mounts were changed first, in a namespace of its own; skips where this user may not."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare -rm is not allowed to this user: mounts cannot be changed for a test")
    serving = f'exec "{sys.executable}" -m rejection_server serve --grpc-port 0 --metrics-port off'
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"set -e; {changes}; {serving}"],
        env={**os.environ, "REJECTION_SCRIPTS": "scripts"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            f"for folder in /tmp /var/tmp; do mount -t tmpfs -o size=64k none $folder; done; unset TMPDIR; "
            f"mount --bind '{sys.prefix}' '{sys.prefix}'; mount -o remount,bind,ro '{sys.prefix}'",
            r"no folder for temporary files .*\(/tmp is full .* is not writable\): set TMPDIR",
            marks=pytest.mark.skipif(IS_TEMPORARY, reason="this environment lies in the folder that the test hides"),
        ),
        ("mount -t tmpfs -o size=1m none /dev/shm", r"/dev/shm, which is full \(1\.0 of 4 MiB needed\): .*--shm-size"),
        ("mount -t tmpfs -o ro none /dev/shm", "/dev/shm, which is not writable: .*--shm-size"),
    ],
)
def test_systems_that_lack_something(changes: str, words: str) -> None:
    assert_one_sentence(in_a_changed_system(changes), 1, words)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(tmp_path: Path, closed: str) -> None:
    repository = model(tmp_path / "repository", 'backend: "tensorrt"')
    command = (
        f'"{sys.executable}" -m rejection_server serve --repository "{repository}" --grpc-port 0 --metrics-port off'
    )
    done = subprocess.run(["sh", "-c", f"exec {command} {closed}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    if "2>&-" not in closed:
        assert_one_sentence(done, 1, "model 'broken' could not be loaded")


@pytest.mark.parametrize("mib", [60, 100, 300, 600, 1000, 1500])
def test_too_little_address_space(mib: int) -> None:
    done = serve("--grpc-port", "0", "--metrics-port", "off", address_space=mib << 20)
    assert_one_sentence(done, 1, rf"a process may have {mib} MiB .*ulimit -v.*Triton needs 2048 MiB or more: lift")


def test_missing_wheel() -> None:
    # Without site-packages nothing is installed, this package neither: it is found from its folder.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "rejection_server", "serve"],
        cwd=ROOT / "server",
        env={**os.environ, "REJECTION_SCRIPTS": "scripts"},
        capture_output=True,
        text=True,
    )
    assert_one_sentence(done, 1, r"is not installed in .*: .*scripts/")
