"""Notices what runs and does nothing: Triton, the guard, or the process of a model.

The end of a process is for the guardian to notice. Here the question is whether those that run still do what they are
for. Triton is asked over gRPC whether it is live, the guard for a sign of life through its pipe, and the kernel how
often a model's process had a processor: its own health thread wants one three times a second, and Triton's Python
backend gives a process up that got none for a second.

Time counts only as long as this process itself runs. A machine that stands still as a whole, a virtual machine that is
moved for example, is not held against anybody.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from rejection_server.host.errors import SilenceError
from rejection_server.host.guard_link import GuardLink

__all__ = ["Pulse", "Watchdog"]

TICK_S = 0.25
ASK_EVERY = 4
"""Ticks between two questions."""
STALL_S = 1.0
"""So late a tick was no matter of load: this process, and probably the machine, stood still."""


@dataclass
class Pulse:
    """When something last gave a sign of life.

    Args:
        name: of what, for a sentence.
        silence_s: how long it may give none.
        since: the time from which on that counts.
    """

    name: str
    silence_s: float
    since: float

    def beat(self, now: float) -> None:
        """There was a sign at `now`."""
        self.since = max(self.since, now)

    def check(self, now: float) -> None:
        """Raise SilenceError if it has been silent for too long."""
        if now - self.since > self.silence_s:
            raise SilenceError(
                f"{self.name} gave no sign of life for {self.silence_s:g} s: the server was stopped, start it again"
            )


class Watchdog:
    """Watches from `start` to `stop`, in a thread.

    Args:
        silence_s: how long Triton, the guard or a model's process may give no sign of life.
        address: HOST:PORT of Triton's gRPC service; None where the watchdog cannot ask there.
        guard: the way to the guard; None without one.
        stubs: name of the model instance by process.
        on_silence: called once, from the thread, which ends then.
    """

    def __init__(
        self,
        silence_s: float,
        *,
        address: str | None,
        guard: GuardLink | None,
        stubs: Mapping[int, str],
        on_silence: Callable[[SilenceError], None],
    ) -> None:
        self._silence_s = silence_s
        self._channel = None if address is None else grpc.insecure_channel(address)
        self._link = guard
        self._on_silence = on_silence
        self._stopped = threading.Event()
        now = time.monotonic()
        self._triton = Pulse("Triton", silence_s, now)
        self._guard = Pulse("the guard", silence_s, now)
        self._stubs = [
            _Turns(pid, Pulse(f"the process of model instance {instance}", silence_s, now))
            for pid, instance in stubs.items()
        ]
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; safe in a signal handler, and more than once."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            self._watch()
        except SilenceError as error:
            if not self._stopped.is_set():
                self._on_silence(error)
        finally:
            if self._channel is not None:
                self._channel.close()

    def _watch(self) -> None:
        last = time.monotonic()
        tick = 0
        while not self._stopped.wait(TICK_S):
            now = time.monotonic()
            if now - last > STALL_S:
                self._forgive(now)
            last = now
            if tick % ASK_EVERY == 0:
                self._ask()
                self._stubs = [stub for stub in self._stubs if stub.look(now)]
            tick += 1
            self._look(now)

    def _forgive(self, now: float) -> None:
        for pulse in (self._triton, self._guard, *(stub.pulse for stub in self._stubs)):
            pulse.beat(now)

    def _ask(self) -> None:
        if self._channel is not None:
            call = service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ServerLive.future(
                service_pb2.ServerLiveRequest(), timeout=self._silence_s, wait_for_ready=True
            )
            call.add_done_callback(self._answered)
        if self._link is not None:
            self._link.ask()

    def _answered(self, call: Any) -> None:
        with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):
            if call.result().live:
                self._triton.beat(time.monotonic())

    def _look(self, now: float) -> None:
        if self._channel is not None:
            self._triton.check(now)
        if self._link is not None:
            self._guard.beat(self._link.heard_at)
            self._guard.check(now)


class _Turns:
    """Counts how often the threads of a process got a processor."""

    def __init__(self, pid: int, pulse: Pulse) -> None:
        self.pulse = pulse
        self._tasks = Path(f"/proc/{pid}/task")
        self._counts = self._read_all()
        self._busy = ""
        """The thread of which a count changed last; none ever does where the kernel does not count."""

    def look(self, now: float) -> bool:
        """Take note of what ran; False if the process has ended. Raises SilenceError."""
        # Most of the time it is the health thread again.
        if self._busy and self._read(self._busy) != self._counts.get(self._busy):
            self._counts[self._busy] = self._read(self._busy)
            self.pulse.beat(now)
            return True
        before, self._counts = self._counts, self._read_all()
        changed = [thread for thread, count in self._counts.items() if before.get(thread) != count]
        if changed:
            self._busy = changed[-1]
            self.pulse.beat(now)
        elif self._busy:
            self.pulse.check(now)
        return bool(self._counts)

    def _read_all(self) -> dict[str, bytes]:
        with contextlib.suppress(OSError):
            return {task.name: self._read(task.name) for task in self._tasks.iterdir()}
        return {}

    def _read(self, thread: str) -> bytes:
        try:
            return (self._tasks / thread / "schedstat").read_bytes()
        except OSError:
            return b""
