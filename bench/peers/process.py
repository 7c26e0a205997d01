"""A server process with everything it starts: one process group, stopped as a whole."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

STOP_GRACE_S = 10.0
TAIL_CHARACTERS = 3000


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], environment: Mapping[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own until the block ends; its output goes to `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=dict(environment), cwd=folder, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        _stop(process)


def run(command: Sequence[str | Path]) -> None:
    """Run a command to its end, as a peer's programs are run.

    Raises:
        subprocess.CalledProcessError: It failed; `stderr` has what it said.
    """
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
    subprocess.run(command, check=True, capture_output=True, text=True, env=environment)


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text(errors="replace").strip()[-TAIL_CHARACTERS:]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and its group: asked first, killed after a grace. What outlives its leader is killed as well."""
    try:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_GRACE_S
        while time.monotonic() < deadline and (process.poll() is None or _group_lives(process.pid)):
            time.sleep(0.05)
    finally:  # a second Ctrl-C cuts the grace short, not the killing
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
