"""A guard as `serve` starts it: a process of its own, in front of a real Triton."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from rejection_server.guard import GuardSettings


class GuardProcess:
    """Runs inside its `with` block; `address` is where it listens, `events` what it tells by itself.

    `failures` are its events of requests that were refused or failed.

    Its log is in the file `log`, if there is one.
    """

    def __init__(self, upstream: str, log: Path | None = None, **settings: Any) -> None:
        self._log = log
        self.settings = GuardSettings(upstream=upstream, public_models=("rejection",), **settings)

    def __enter__(self) -> GuardProcess:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rejection_server.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if self._log is None else self._log.open("w"),
            text=True,
            pass_fds=() if self.settings.listen_fd is None else (self.settings.listen_fd,),
        )
        self._input = cast("IO[str]", self.process.stdin)
        self._output = cast("IO[str]", self.process.stdout)
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.failures: queue.Queue[dict[str, Any]] = queue.Queue()
        self._listening = threading.Thread(target=self._listen)
        self._listening.start()
        self._tell(self.settings.to_json())
        self.ready = self._said.get(timeout=60)
        self.port = int(self.ready["port"])
        self.address = f"127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.close()
        self._listening.join()
        self._output.close()

    def close(self, within_s: float = 60) -> int:
        """End its standard input, which stops it; returns the exit status."""
        self._input.close()
        return self.process.wait(within_s)

    def request_stop(self, way: str) -> None:
        """Stop it by SIGTERM or by the end of its standard input."""
        if way == "SIGTERM":
            self.process.send_signal(signal.SIGTERM)
        else:
            self._input.close()

    def counts(self, within_s: float = 60) -> dict[str, Any]:
        """A snapshot of its counts; raises queue.Empty if it does not say them."""
        self._tell("")
        return self._said.get(timeout=within_s)

    def memory_bytes(self) -> int:
        """Its resident memory."""
        with open(f"/proc/{self.process.pid}/statm") as file:  # noqa: PTH123 - not a file of a folder
            return int(file.read().split()[1]) * 4096

    def _tell(self, line: str) -> None:
        self._input.write(line + "\n")
        self._input.flush()

    def _listen(self) -> None:
        for line in self._output:
            said = json.loads(line)
            queues = {None: self._said, "failed": self.failures}
            queues.get(said.get("event"), self.events).put(said)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does not run within the block."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    while any((task / "stat").read_text().rpartition(") ")[2][0] != "T" for task in tasks.iterdir()):
        time.sleep(0.001)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def under_way(guard: GuardProcess, count: int, within_s: float = 60) -> bool:
    """Wait until so many inference requests are under way."""
    until = time.monotonic() + within_s
    while (now := guard.counts()["under_way"]) != count and time.monotonic() < until:
        time.sleep(0.02)
    return bool(now == count)
