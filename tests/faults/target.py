"""The server that is attacked: as `serve` starts it, or a bare Triton; and the processes it is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from integration.guard_process import GuardProcess
from rejection_server.host import ServeOptions, Server
from rejection_server.host.guardian import STUB, STUB_INSTANCE
from support.repository import REPOSITORY

__all__ = ["Target", "memory", "processes", "started"]


@dataclass
class Target:
    """A server that runs."""

    address: str
    server: Server
    guard: GuardProcess | None

    def failure(self) -> str | None:
        """Why it does not run any more."""
        if self.server.wait(0) is not None:
            return f"{self.server.failure}; " + " | ".join(self.server.log_tail()[-8:])
        if self.guard is not None and (status := self.guard.process.poll()) is not None:
            return f"the guard ended with status {status}"
        return None

    def stop(self) -> int:
        """Stop it as a supervisor would; returns a status other than 0 if any part had one."""
        status = self.guard.close() if self.guard is not None else 0
        return self.server.stop() or status


@contextlib.contextmanager
def started(*, guarded: bool = True) -> Iterator[Target]:
    """A server for the bundled model on a free port of this machine, gone after the block."""
    options = ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=0)
    server = Server(options, on_log=lambda _line: None)
    server.start()
    try:
        with contextlib.ExitStack() as stack:
            guard = stack.enter_context(GuardProcess(server.grpc_address)) if guarded else None
            yield Target(guard.address if guard else server.grpc_address, server, guard)
    finally:
        server.kill()
        server.wait()


def processes(besides: set[int]) -> dict[str, psutil.Process]:
    """This process's descendants by what they are, save those `besides` and theirs."""
    found: dict[str, psutil.Process] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            name = _name(process.cmdline())
            if process.pid not in besides and name is not None:
                found[name] = process
    return found


def _name(command: list[str]) -> str | None:
    words = " ".join(command)
    if command and command[0].endswith(STUB):
        return f"stub of {command[STUB_INSTANCE]}"
    for part, name in (("rejection_server.guard", "guard"), ("guardian.py", "guardian")):
        if part in words:
            return name
    return "tritonserver" if command and command[0].endswith("tritonserver") else None


def memory(found: dict[str, psutil.Process]) -> dict[str, int]:
    """Resident bytes of each; 0 for one that has ended."""
    sizes = {}
    for name, process in found.items():
        try:
            sizes[name] = process.memory_info().rss
        except psutil.NoSuchProcess:
            sizes[name] = 0
    return sizes
