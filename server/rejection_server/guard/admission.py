"""How much may be under way: the rest is refused at once, before any work is done for it.

A full queue takes up a burst. One that stays full only adds its length to every caller's wait, so after a second of
refusals only half as many requests may be under way.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rejection_server.guard.refusal import Code, Refusal

__all__ = ["Admission", "Queue"]

STANDING_S = 1.0
"""After refusing for so long, with no pause of this length, half of the bound holds."""


class Queue:
    """Counts inference requests.

    Args:
        max_requests: how many may be under way at a time.
        of: whose queue it is, in words; empty for everybody's.
        clock: gives seconds.
    """

    def __init__(self, max_requests: int, of: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused_since = self._refused_last = float("-inf")
        self._max_requests = max_requests
        self._of = of and f" of {of}"
        self.requests = 0

    def enter(self) -> None:
        """Count one more request; raises Refusal if there is no room."""
        if self.requests >= self._max_requests // 2:
            bound = self._bound(self._clock())
            if self.requests >= bound:
                raise Refusal(
                    Code.UNAVAILABLE,
                    f"the queue{self._of} is full: at most {bound} requests may be under way; send this one again "
                    "after a while",
                )
        self.requests += 1

    def _bound(self, now: float) -> int:
        """How many may be under way; counts a refusal if they are."""
        is_standing = now - self._refused_last < STANDING_S <= now - self._refused_since
        bound = max(1, self._max_requests // 2) if is_standing else self._max_requests
        if self.requests >= bound:
            if now - self._refused_last >= STANDING_S:
                self._refused_since = now
            self._refused_last = now
        return bound

    def leave(self) -> None:
        """A request that had entered is done with."""
        self.requests -= 1


class Admission(Queue):
    """Counts all inference requests, and the bytes of all requests.

    Args:
        max_requests: inference requests under way at a time.
        max_bytes: bytes of requests at a time, those that are still arriving included.
        clock: gives seconds.
    """

    def __init__(self, max_requests: int, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(max_requests, clock=clock)
        self._max_bytes = max_bytes
        self.bytes = 0

    def hold(self, size: int) -> None:
        """Count bytes that arrived; raises Refusal, with the bytes counted, if they are too many."""
        self.bytes += size
        if self.bytes > self._max_bytes:
            raise Refusal(
                Code.UNAVAILABLE,
                f"the queue is full: at most {self._max_bytes / (1 << 20):g} MiB of requests may be under way; send "
                "this one again after a while",
            )

    def release(self, size: int) -> None:
        """Bytes that were held are gone."""
        self.bytes -= size
