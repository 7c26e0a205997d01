"""What all connections of a guard share."""

from __future__ import annotations

from dataclasses import dataclass, field

from rejection_server.guard.admission import Admission
from rejection_server.guard.counters import Counters
from rejection_server.guard.settings import GuardSettings
from rejection_server.guard.up import Upstream

__all__ = ["Context"]


@dataclass
class Context:
    """The guard, as its connections see it."""

    settings: GuardSettings
    admission: Admission
    upstream: Upstream
    counters: Counters = field(default_factory=Counters)
    stopping: bool = False
    """Whether new calls are refused."""
    streams: int = 0
    """Open calls of all connections."""
    now: float = 0.0
    """The loop's clock, to the second: enough for timeouts, and asked once instead of for each call."""
