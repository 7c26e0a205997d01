"""Tells whoever runs the server which requests were refused or failed: one a second of each code, others counted.

An overload refuses thousands a second, and a log that says so for each of them would be the next overload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from rejection_server.guard.refusal import Code

if TYPE_CHECKING:
    from rejection_server.guard.call import Call

__all__ = ["Reports", "Request"]

WINDOW_S = 1.0
LONGEST = 500
"""Characters of a sentence, or of a name that a caller chose, that are told."""
_NAMES = {int(code): code.name for code in Code}


class Request(Protocol):
    """What is known of a request; both are empty before it was read."""

    model: str
    request_id: str


class _Kind:
    """The calls of one status code."""

    __slots__ = ("told_at", "untold")

    def __init__(self) -> None:
        self.told_at = -WINDOW_S
        self.untold = 0


class Reports:
    """Makes events of requests that end with another status than OK."""

    def __init__(self) -> None:
        self._kinds: dict[int, _Kind] = {}
        self.on_event: Callable[[dict[str, object]], None] = lambda _event: None
        """Told `{"event": "failed", "code": ..., "message": ..., "method": ..., "peer": ...}`, with `id` and `model` if
        these are known, and `untold`: how many others ended with this code since the last one told. Those of which none
        followed that would be told come without all but `code` and `untold`."""

    def failed(self, call: Call, code: int, sentence: str, request: Request) -> None:
        """A request, or a message of a stream, ends with this status."""
        kind = self._kinds.get(code)
        if kind is None:
            kind = self._kinds[code] = _Kind()
        now = call.connection.context.now
        if now - kind.told_at < WINDOW_S:
            kind.untold += 1
            return
        event = self._event(code, kind)
        event |= {"message": sentence[:LONGEST], "method": call.method.name, "peer": call.connection.peer}
        event |= {"id": request.request_id[:LONGEST]} if request.request_id else {}
        event |= {"model": request.model[:LONGEST]} if request.model else {}
        kind.told_at = now
        self.on_event(event)

    def look(self, now: float) -> None:
        """Once a second: tell of those that are not told yet."""
        for code, kind in self._kinds.items():
            if kind.untold and now - kind.told_at >= WINDOW_S:
                kind.told_at = now
                self.on_event(self._event(code, kind))

    @staticmethod
    def _event(code: int, kind: _Kind) -> dict[str, Any]:
        untold, kind.untold = kind.untold, 0
        event: dict[str, Any] = {"event": "failed", "code": _NAMES.get(code, str(code))}
        return event | ({"untold": untold} if untold else {})
