"""How many pods there are to be: what Kubernetes' HorizontalPodAutoscaler does with the chart's rules.

The rules of `deploy/helm/rejection`: each metric of all pods together, divided by what each pod may have of it, and of
the numbers that follow the largest; up at once, to twice as many or four more in 15 seconds; down by a tenth or one a
minute, to the most that the last minutes wanted.
Source of the algorithm: "Horizontal Pod Autoscaling" in Kubernetes' documentation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

SYNC_S = 15
"""Seconds between two decisions."""
TOLERANCE = 0.1
"""A ratio so near to 1 changes nothing."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Settings of the chart's `scaling`, and how long things take."""

    targets: Mapping[str, float]
    """What each pod may have of each metric on average."""
    least: int
    most: int
    start_s: int = 40
    """Seconds from the decision to a pod that answers: a place for it, the image, loading the model."""
    window_s: int = 60
    """Seconds that the metric is a mean of (`rate(...[1m])`)."""
    delay_s: int = 15
    """Age of the newest sample: how often Prometheus scrapes."""
    down_s: int = 300
    """`stabilizationWindowSeconds` of scaling down."""


@dataclass
class Scaler:
    """Replicas over time, second by second."""

    rules: Rules
    replicas: int
    """Pods asked for, those that are starting included."""
    _starting: deque[tuple[int, int]] = field(default_factory=deque)
    _ready: int = 0
    _seen: deque[Mapping[str, float]] = field(default_factory=deque)
    _wanted: deque[tuple[int, int]] = field(default_factory=deque)
    _past: deque[tuple[int, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Begin with pods that are ready."""
        self._ready = self.replicas

    @property
    def ready(self) -> int:
        """Pods that answer."""
        return self._ready

    def second(self, now: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of this second, summed over all pods, and decide when it is time."""
        rules = self.rules
        self._seen.append(metrics)
        if len(self._seen) > rules.window_s + rules.delay_s:
            self._seen.popleft()
        while self._starting and self._starting[0][0] <= now:
            self._ready += self._starting.popleft()[1]
        if now % SYNC_S == 0:
            self._decide(now)

    def _decide(self, now: int) -> None:
        rules = self.rules
        wanted = min(rules.most, max(rules.least, *(self._for(name, target) for name, target in rules.targets.items())))
        self._wanted.append((now, wanted))
        while self._wanted[0][0] <= now - rules.down_s:
            self._wanted.popleft()
        if wanted > self.replicas:
            self._set(now, min(wanted, max(self._before(now, SYNC_S) * 2, self._before(now, SYNC_S) + 4)))
        else:
            steady = max(each for _, each in self._wanted)
            if steady < self.replicas:
                before = self._before(now, 60)
                self._set(now, max(steady, min(before - 1, math.floor(before * 0.9))))

    def _for(self, name: str, target: float) -> int:
        """Replicas by one metric alone."""
        seen = [metrics[name] for metrics in self._seen][: self.rules.window_s]
        ratio = (sum(seen) / len(seen)) / (target * self.replicas)
        return self.replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(self.replicas * ratio)

    def _before(self, now: int, seconds: int) -> int:
        """Replicas so many seconds ago."""
        past = self.replicas
        for at, count in reversed(self._past):
            if at <= now - seconds:
                break
            past = count
        return past

    def _set(self, now: int, replicas: int) -> None:
        if replicas == self.replicas:
            return
        self._past.append((now, self.replicas))
        while self._past[0][0] < now - 3600:
            self._past.popleft()
        more = replicas - self.replicas
        if more > 0:
            self._starting.append((now + self.rules.start_s, more))
        else:
            for index in range(len(self._starting) - 1, -1, -1):  # those that are not ready go first
                at, count = self._starting[index]
                gone = min(count, -more)
                self._starting[index] = (at, count - gone)
                more += gone
            self._ready += more
        self.replicas = replicas
