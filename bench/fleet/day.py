"""A day of a fleet, second by second: arrivals, queue, latency, and the number of servers.

No single text is followed, so a day of a thousand servers takes seconds. What a server shows at a share of its capacity
comes from `events`; beyond its capacity the queue grows by what is too much, and the time to work that off adds to
the latency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.fleet.events import Pod, Steady
from bench.fleet.scaling import Rules, Scaler

Floats = NDArray[np.float64]
SETTLED = 0.97
"""The highest share of capacity at which servers settle."""


@dataclass(frozen=True)
class Day:
    """A figure for each second."""

    arriving: Floats
    """Texts."""
    ready: Floats
    """Servers."""
    waiting: Floats
    """Texts in the queues of all servers."""
    p99_s: Floats
    refused: Floats
    """Texts."""

    @property
    def pod_hours(self) -> float:
        """Hours of servers that were there."""
        return float(self.ready.sum() / 3600)

    def kept(self, limit_s: float) -> float:
        """Share of the texts that came in seconds whose p99 was within the limit, refused ones not counted as kept."""
        good = np.where(self.p99_s <= limit_s, self.arriving - self.refused, 0)
        return float(good.sum() / self.arriving.sum())


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Equal servers, and how they are scaled: by texts `waiting`, by instances `busy`, or both."""

    pod: Pod
    steady: Steady
    tokens: float
    """Mean tokens of a text."""
    rules: Rules


def simulate_day(rates: Floats, fleet: Fleet, *, seed: int = 0) -> Day:
    """Follow arrivals with these mean rates [seconds], texts a second, beginning with as many servers as they take."""
    arriving = np.random.default_rng(seed).poisson(rates).astype(np.float64)
    per_pod, steady = fleet.pod.rate(fleet.tokens), fleet.steady
    begin = min(fleet.rules.most, max(fleet.rules.least, round(float(rates[:60].mean()) / per_pod / 0.7)))
    scaler, backlog, smooth = Scaler(fleet.rules, begin), 0.0, float(rates[0])
    columns = np.zeros((4, len(rates)))
    for now, count in enumerate(arriving):
        capacity = scaler.ready * per_pod
        smooth += (count - smooth) / 10  # servers take some seconds to settle, and to feel a second's chance
        share = min(SETTLED, smooth / capacity)
        backlog = max(0.0, backlog + count - SETTLED * capacity) if backlog or count > SETTLED * capacity else 0.0
        waits, _, p99 = steady.at(share)
        room = scaler.ready * max(0.0, fleet.pod.bound - waits)
        refused, backlog = max(0.0, backlog - room), min(backlog, room)
        waiting = scaler.ready * waits + backlog
        columns[:, now] = scaler.ready, waiting, p99 + backlog / capacity, refused
        busy = fleet.pod.instances * scaler.ready * min(1.0, smooth / capacity if not backlog else 1.0)
        scaler.second(now, {"waiting": waiting, "busy": busy})
    return Day(arriving, *columns)
