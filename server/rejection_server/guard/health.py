"""What the guard knows about Triton: it asks once a second whether it is alive, and, while anybody watches, ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rejection_server.guard.framing import framed
from rejection_server.guard.methods import SERVER_LIVE_PATH, SERVER_READY_PATH
from rejection_server.guard.refusal import Refusal
from rejection_server.guard.up import Exchange, Upstream

__all__ = ["NOT_SERVING", "SERVING", "Health", "Watcher"]

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""Messages of the health service."""
MAX_TICK_S = 1.5
"""Of a longer time between two looks the guard itself did not run; that is not held against Triton."""
_READY = framed(b"\x08\x01")


class Watcher(Protocol):
    """Who is told whether Triton is ready."""

    def tell(self, status: bytes) -> None:
        """A status, which may be the same again."""


class _Question:
    """One question that is asked again once it is answered."""

    def __init__(self, path: bytes, upstream: Upstream, then: Callable[[Exchange], None]) -> None:
        self._path = path
        self._upstream = upstream
        self._then = then
        self.is_open = False

    def ask(self) -> None:
        if not self.is_open:
            self.is_open = True
            try:
                self._upstream.send(Exchange(self._path, framed(b""), self))
            except Refusal:
                self.is_open = False

    def answered(self, exchange: Exchange) -> None:
        self.is_open = False
        self._then(exchange)


class Health:
    """Asks Triton.

    Args:
        upstream: the connections to it.
        live_timeout_s: after how long without an answer it counts as unresponsive or lost.
    """

    def __init__(self, upstream: Upstream, live_timeout_s: float) -> None:
        self._upstream = upstream
        self._timeout_s = live_timeout_s
        self._live = _Question(SERVER_LIVE_PATH, upstream, lambda _exchange: None)
        self._ready = _Question(SERVER_READY_PATH, upstream, self._ready_answered)
        self._watchers: set[Watcher] = set()
        self._looked = 0.0
        self._silent_s = 0.0
        self._answers = 0
        self._event = ""
        self.on_event: Callable[[dict[str, object]], None] = lambda _event: None
        """Told once when Triton becomes unresponsive or lost, and when it is responsive again."""

    def look(self, now: float) -> None:
        """Once a second: tell if Triton has answered nothing for too long after its first answer, and ask."""
        answers = self._upstream.answers
        if answers != self._answers:
            self._answers, self._silent_s = answers, 0.0
            if self._event:
                self._tell("responsive")
                self._event = ""
        else:
            self._silent_s += min(now - self._looked, MAX_TICK_S)
        self._looked = now
        # A server that was lost and starts again takes connections before it answers: it is lost until then.
        if answers and self._silent_s >= self._timeout_s and self._event != "lost":
            self._tell("unresponsive" if self._upstream.is_connected else "lost", seconds=round(self._silent_s, 1))
        self._live.ask()
        if self._watchers:
            self._ready.ask()

    def watch(self, watcher: Watcher) -> None:
        """One more watcher, who is told as soon as Triton has answered."""
        self._watchers.add(watcher)
        self._ready.ask()

    def forget(self, watcher: Watcher) -> None:
        """One watcher less."""
        self._watchers.discard(watcher)

    def _ready_answered(self, exchange: Exchange) -> None:
        is_ready = exchange.status == b"0" and bytes(exchange.body) == _READY
        for watcher in list(self._watchers):
            watcher.tell(SERVING if is_ready else NOT_SERVING)

    def _tell(self, event: str, **details: object) -> None:
        if event != self._event:
            self._event = event
            self.on_event({"event": event, **details})
