"""A guard as `serve` starts it: a process of its own, in front of a real Triton."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from types import TracebackType
from typing import IO, Any, cast

from rejection_server.guard import GuardSettings


class GuardProcess:
    """Runs inside its `with` block; `address` is where it listens."""

    def __init__(self, upstream: str, **settings: Any) -> None:
        self.settings = GuardSettings(upstream=upstream, public_models=("rejection",), **settings)

    def __enter__(self) -> GuardProcess:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rejection_server.guard"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._input = cast("IO[str]", self.process.stdin)
        self._output = cast("IO[str]", self.process.stdout)
        self._tell(self.settings.to_json())
        self.port = int(self._hear()["port"])
        self.address = f"127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.close()

    def close(self, within_s: float = 60) -> int:
        """End its standard input, which stops it; returns the exit status."""
        self._input.close()
        status = self.process.wait(within_s)
        self._output.close()
        return status

    def request_stop(self, way: str) -> None:
        """Stop it by SIGTERM or by the end of its standard input."""
        if way == "SIGTERM":
            self.process.send_signal(signal.SIGTERM)
        else:
            self._input.close()

    def counts(self) -> dict[str, Any]:
        """A snapshot of its counts."""
        self._tell("")
        return self._hear()

    def memory_bytes(self) -> int:
        """Its resident memory."""
        with open(f"/proc/{self.process.pid}/statm") as file:  # noqa: PTH123 - not a file of a folder
            return int(file.read().split()[1]) * 4096

    def _tell(self, line: str) -> None:
        self._input.write(line + "\n")
        self._input.flush()

    def _hear(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(self._output.readline()))
