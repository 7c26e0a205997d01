"""How much may be under way: the rest is refused at once, before any work is done for it."""

from __future__ import annotations

from rejection_server.guard.refusal import Code, Refusal

__all__ = ["Admission"]


class Admission:
    """Counts inference requests and the bytes of all requests.

    Args:
        max_requests: inference requests under way at a time.
        max_bytes: bytes of requests at a time, those that are still arriving included.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0

    def enter(self) -> None:
        """Count one more request; raises Refusal if there is no room."""
        if self.requests >= self._max_requests:
            raise Refusal(
                Code.UNAVAILABLE,
                f"the queue is full: at most {self._max_requests} requests wait; send this one again after a while",
            )
        self.requests += 1

    def leave(self) -> None:
        """A request that had entered is done with."""
        self.requests -= 1

    def hold(self, size: int) -> None:
        """Count bytes that arrived; raises Refusal, with the bytes counted, if they are too many."""
        self.bytes += size
        if self.bytes > self._max_bytes:
            raise Refusal(
                Code.UNAVAILABLE,
                f"the queue is full: at most {self._max_bytes} bytes of requests wait; send this one again after a "
                "while",
            )

    def release(self, size: int) -> None:
        """Bytes that were held are gone."""
        self.bytes -= size
