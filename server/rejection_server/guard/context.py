"""What all connections of a guard share."""

from __future__ import annotations

from collections import Counter

from rejection_server.guard.access import Access
from rejection_server.guard.admission import Admission
from rejection_server.guard.answers import Durations
from rejection_server.guard.counters import Counters
from rejection_server.guard.health import Health
from rejection_server.guard.inference import Inferences
from rejection_server.guard.reports import Reports
from rejection_server.guard.settings import GuardSettings
from rejection_server.guard.up import Upstream

__all__ = ["Context"]


class Context:
    """The guard, as its connections see it."""

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self.access = Access(settings)
        self.counters = Counters(durations={name: Durations() for name in settings.public_models})
        self.reports = Reports()
        self.admission = Admission(settings.max_requests, settings.max_bytes)
        self.upstream = Upstream(settings, self.admission)
        self.inferences = Inferences(settings, self.admission, self.upstream, self.counters)
        self.health = Health(self.upstream, settings.live_timeout_s)
        self.peers: Counter[str] = Counter()
        """Connections by address."""
        self.is_stopping = False
        """Whether new calls are refused."""
        self.streams = 0
        """Open calls of all connections."""
        self.now = 0.0
        """The loop's clock, to a tenth of a second: enough for time-outs, and asked once instead of for each call."""
