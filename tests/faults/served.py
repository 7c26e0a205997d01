"""`rejection-server serve` as a supervisor would start it: a process, its descendants, what it says and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from faults.target import processes
from rejection_client import ClientConfig, RejectionClient, RejectionError

__all__ = ["SERVE", "Served", "can_unshare", "fill", "unshared"]

ANSWERS = {"Sorry, but I can't assist with that.": "REJECTION", "Boil the water first.": "NORMAL"}
CALL_S = 2.0
MANY = 20
KEPT_BYTES = 1 << 20
SERVE = [sys.executable, "-m", "rejection_server", "serve", "--grpc-port", "0", "--metrics-port", "off"]


class Served:
    """A ready server inside its `with` block; `address` is where it listens.

    Args:
        wrapper: a command that runs the command after it, such as one with other limits.
        environment: variables beside those of this process.
    """

    def __init__(self, wrapper: Sequence[str] = (), environment: dict[str, str] | None = None) -> None:
        self._wrapper = wrapper
        self._environment = environment or {}
        self.said = bytearray()
        """What it wrote to standard error: the first mebibyte, all of it counted in `said_bytes`."""
        self.said_bytes = 0

    def __enter__(self) -> Served:
        self.process = subprocess.Popen(
            [*self._wrapper, *SERVE],
            env={**os.environ, "REJECTION_SCRIPTS": "scripts", **self._environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            words = line.decode().split()
            if words[:1] == ["gRPC"]:
                self.address = words[1]
            if b"Ctrl-C" in line:
                break
        else:
            self._listener.join()
            raise AssertionError(self.said.decode())
        self.parts = {"launcher": psutil.Process(self.process.pid), **processes(psutil.Process(self.process.pid))}
        self.client = RejectionClient(self.address, config=ClientConfig(timeout_s=CALL_S, max_attempts=1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for part in self.parts.values():
            if part.is_running():
                part.kill()
        self._listener.join(10)

    def part(self, name: str) -> psutil.Process:
        """The process of this name; a `stub of` a model by the model's name."""
        return next(process for key, process in self.parts.items() if key == name or key.startswith(f"stub of {name}_"))

    def call(self) -> str | None:
        """Ask for a text; None if the answer is right, else what is wrong."""
        for text, label in ANSWERS.items():
            try:
                if (found := self.client.classify(text).label) != label:
                    return f"{found} in place of {label}"
            except RejectionError as exc:
                return f"{type(exc).__name__}: {exc}"
        return None

    def ended(self, within_s: float) -> int | None:
        """Its exit status if it ends in time, else None."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None

    def comes_to(self, within_s: float) -> str:
        """Call until it is known what became of the server: "answers", "ended" or, in the end, the last error."""
        until = time.monotonic() + within_s
        in_a_row, wrong = 0, "nothing was asked"
        while time.monotonic() < until:
            if self.ended(0.1) is not None:
                return "ended"
            problem = self.call()
            in_a_row, wrong = (in_a_row + 1, wrong) if problem is None else (0, problem)
            if in_a_row == MANY:
                return "answers"
        return wrong

    def last_words(self) -> str:
        """The last line that it wrote to standard error, once it has ended."""
        self._listener.join(30)
        lines = self.said.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def left(self, within_s: float) -> list[str]:
        """Which of its processes are still there, after so long."""
        _, alive = psutil.wait_procs(list(self.parts.values()), timeout=within_s)
        return [name for name, process in self.parts.items() if process in alive]

    def _listen(self) -> None:
        assert self.process.stderr is not None
        while chunk := os.read(self.process.stderr.fileno(), 65536):
            self.said_bytes += len(chunk)
            if len(self.said) < KEPT_BYTES:
                self.said += chunk


def unshared(folder: Path, *, size: str, full: bool = False) -> list[str]:
    """A command that runs another with a small file system of its own, full or empty, in place of a folder."""
    mount = f"mount -t tmpfs -o size={size},mode=1777 faults '{folder}'"
    if full:
        mount += f" && ! cat /dev/zero > '{folder}/filled' 2> /dev/null"
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--mount", *user, "sh", "-c", f'{mount} && exec "$@"', "sh"]


def can_unshare() -> bool:
    """Whether this user may give a process file systems of its own."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run([*unshared(Path(folder), size="1m"), "true"], capture_output=True, check=False)
        except OSError:
            return False
        return done.returncode == 0


def fill(folder: Path) -> Path:
    """Leave no room in the file system of a folder; returns the file that took it."""
    path = folder / "filled"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return path
