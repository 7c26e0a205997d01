"""The server that is attacked: as `serve` starts it, or a bare Triton; and the processes it is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil

from rejection_server.host import ServeOptions, Server
from rejection_server.host.guardian import STUB, STUB_INSTANCE
from support.repository import REPOSITORY

__all__ = ["Target", "memory", "processes", "started"]

LINES = 2000
"""More lines of log than that are a finding: callers could fill a disk."""


class Target:
    """A server that runs, and its log."""

    def __init__(self, *, guarded: bool) -> None:
        options = ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=0, guard=guarded)
        self.lines = 0
        self.traceback = ""
        self.server = Server(options, on_log=self._take)

    @property
    def address(self) -> str:
        """HOST:PORT that callers use."""
        return self.server.grpc_address

    def failure(self) -> str | None:
        """Why it does not run any more; None if it does."""
        if self.server.wait(0) is None:
            return None
        return f"{self.server.failure}; {' | '.join(self.server.log_tail()[-8:])}"

    def noise(self) -> str | None:
        """What is wrong with its log."""
        if self.traceback:
            return f"a traceback: {self.traceback}"
        return f"{self.lines} lines" if self.lines > LINES else None

    def _take(self, line: str) -> None:
        self.lines += 1
        if "Traceback" in line:
            self.traceback = line
        elif self.traceback and len(self.traceback) < 1000:
            self.traceback += f" | {line}"


@contextlib.contextmanager
def started(*, guarded: bool = True) -> Iterator[Target]:
    """A server for the bundled model on a free port of this machine, gone after the block."""
    target = Target(guarded=guarded)
    target.server.start()
    try:
        yield target
    finally:
        target.server.kill()
        target.server.wait()


def processes(root: psutil.Process) -> dict[str, psutil.Process]:
    """The processes of a server, which descend from `root`, by what they are."""
    found: dict[str, psutil.Process] = {}
    for process in root.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if (name := _name(process.cmdline())) is not None:
                found[name] = process
    return found


def _name(command: list[str]) -> str | None:
    if command and command[0].endswith(STUB):
        return f"stub of {command[STUB_INSTANCE]}"
    if command and command[0].endswith("tritonserver"):
        return "tritonserver"
    if "rejection_server.guard" in command:
        return "guard"
    return "guardian" if any(word.endswith("guardian.py") for word in command) else None


def memory(found: dict[str, psutil.Process]) -> dict[str, int]:
    """Resident bytes of each; 0 for one that has ended."""
    sizes = {}
    for name, process in found.items():
        try:
            sizes[name] = process.memory_info().rss
        except psutil.NoSuchProcess:
            sizes[name] = 0
    return sizes
