"""What a guard has done so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

from rejection_server.guard.refusal import Code

__all__ = ["Counters", "Snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """A guard at one moment; counts are since its start."""

    calls: dict[str, dict[str, int]]
    """Ended calls by method and name of the status code; cancelled ones are CANCELLED."""
    refused: int
    """Requests that the guard itself refused, those of streams included."""
    cancelled: int
    """Calls that their callers gave up."""
    received_bytes: int
    """Bytes that came from callers, HTTP/2 frames and all."""
    sent_bytes: int
    """Bytes that went to callers."""
    connections: int
    """Open connections of callers."""
    under_way: int
    """Inference requests under way."""
    under_way_bytes: int
    """Bytes of requests under way."""

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


@dataclass
class Counters:
    """Counts as they grow."""

    ended: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Ended calls by method and status code."""
    refused: int = 0
    cancelled: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0

    def calls(self) -> dict[str, dict[str, int]]:
        """Ended calls by method, then by the code's name."""
        names = {int(code): code.name for code in Code}
        calls: dict[str, dict[str, int]] = {}
        for (method, code), count in sorted(self.ended.items()):
            calls.setdefault(method, {})[names.get(code, str(code))] = count
        return calls
