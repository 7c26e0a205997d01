"""Further guards of one port: processes that the first one starts, feeds with questions and outlives.

Each guard is a process of Python, which one core carries. Several share a port (SO_REUSEPORT): the kernel gives each
its part of the connections, and each keeps its part of the bounds. To the launcher they are one guard: counts are
added up, events are passed on, and the first one ends when another does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Sequence

from rejection_server.guard.counters import Snapshot
from rejection_server.guard.settings import GuardSettings
from rejection_server.host.errors import GuardError

__all__ = ["Crew"]

OF_EACH = ("failed", "unhealthy")
"""Events that not every guard tells of by itself: all of them see that Triton is gone."""
MODULE = "rejection_server.guard"
LINE_BYTES = 1 << 24
"""Longest line that a guard says: its counts, with a label's name for each label."""


class Crew:
    """The other guards of a port.

    Args:
        on_event: called with what they tell by themselves.
        on_end: called when one of them ends unasked.
    """

    def __init__(self, on_event: Callable[[dict[str, object]], None], on_end: Callable[[], None]) -> None:
        self._on_event = on_event
        self._on_end = on_end
        self._members: list[_Member] = []
        self.has_lost = False
        """Whether one of them ended unasked."""

    async def start(self, settings: GuardSettings, count: int) -> None:
        """Start `count` guards with these settings; returns once they listen. Raises GuardError."""
        for _ in range(count):
            member = _Member(self._on_event, self._lost)
            self._members.append(member)
            await member.start(settings)

    async def snapshots(self) -> Sequence[Snapshot]:
        """What each has done so far."""
        return await asyncio.gather(*(member.snapshot() for member in self._members))

    def request_stop(self) -> None:
        """Let them answer what is under way and end."""
        for member in self._members:
            member.request_stop()

    async def wait(self) -> None:
        """Wait until they have ended."""
        for member in self._members:
            await member.wait()

    def _lost(self) -> None:
        self.has_lost = True
        self._on_end()


class _Member:
    def __init__(self, on_event: Callable[[dict[str, object]], None], on_end: Callable[[], None]) -> None:
        self._on_event = on_event
        self._on_end = on_end
        self._process: asyncio.subprocess.Process | None = None
        self._said: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self._listener: asyncio.Task[None] | None = None
        self._asking = asyncio.Lock()
        self._is_stopping = False

    async def start(self, settings: GuardSettings) -> None:
        """Start it; returns once it listens. Raises GuardError."""
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", MODULE),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
        )
        assert process.stdout is not None
        self._listener = asyncio.create_task(self._listen(process.stdout))
        self._write(settings.to_json())
        said = await self._said.get()
        if "port" not in said:
            raise GuardError(str(said.get("error", "a further guard ended before it listened")))

    async def snapshot(self) -> Snapshot:
        """Its counts."""
        async with self._asking:
            while not self._said.empty():  # answers that came too late for whoever asked
                self._said.get_nowait()
            self._write("")
            said = await self._said.get()
        if not said:
            raise GuardError("a further guard has ended")
        return Snapshot(**said)  # type: ignore[arg-type]  # it is what `Snapshot.to_dict` made

    def request_stop(self) -> None:
        """Close its standard input, which stops it."""
        self._is_stopping = True
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    async def wait(self) -> None:
        """Wait until it has ended."""
        if self._process is not None:
            await self._process.wait()
        if self._listener is not None:
            await self._listener

    async def _listen(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if "event" not in message:
                    self._said.put_nowait(message)
                elif message["event"] in OF_EACH:
                    self._on_event(message)
        self._said.put_nowait({})
        if not self._is_stopping:
            self._on_end()

    def _write(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(f"{line}\n".encode())
