"""When requests arrive: an open loop, whose times are fixed before the first answer and wait for none.

A rate that changes with time is a profile: points (seconds, requests per second), straight lines between them, a jump
where two points share their time. Poisson arrivals are those of callers who do not know of each other; here they are
drawn given their number (the order statistics of uniform variables), so that a run sends exactly what it was told to.
See Schroeder, Wierman, Harchol-Balter: "Open Versus Closed: A Cautionary Tale" (NSDI 2006) for why the loop is open.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Literal

Profile = Sequence[tuple[float, float]]
Spacing = Literal["poisson", "constant"]

CHUNK_S = 10.0
"""Seconds of arrivals that are drawn at once: bounds the memory of a run that lasts hours."""
_ROUNDING = 1e-6


def duration_s(profile: Profile) -> float:
    """Length of a profile in seconds."""
    return profile[-1][0]


def expected(profile: Profile) -> int:
    """Requests of the whole profile."""
    return math.floor(sum(chunk.requests for chunk in _chunks(profile)) + _ROUNDING)


def arrivals(
    profile: Profile, spacing: Spacing, rng: random.Random, *, worker: int = 0, workers: int = 1
) -> Iterator[float]:
    """Times in seconds from the profile's begin, ascending: this worker's share of `workers` equal ones.

    The shares add up to `expected(profile)` requests. Poisson shares make a Poisson process together; constant ones
    take turns.
    """
    before, offset = 0.0, worker / workers
    for chunk in _chunks(profile):
        after = before + chunk.requests
        first, last = (math.floor(number / workers + offset + _ROUNDING) for number in (before, after))
        if spacing == "poisson":
            yield from map(chunk.time_of, sorted(rng.uniform(0, chunk.requests) for _ in range(first, last)))
        else:
            yield from (chunk.time_of((n + 1 - offset) * workers - before) for n in range(first, last))
        before = after


class _Chunk:
    """Some seconds in which the rate goes in a straight line."""

    def __init__(self, begin: tuple[float, float], end: tuple[float, float]) -> None:
        (self.begin_s, self.rate), (end_s, end_rate) = begin, end
        self.seconds = end_s - self.begin_s
        self.slope = (end_rate - self.rate) / self.seconds
        self.requests = (self.rate + end_rate) / 2 * self.seconds

    def time_of(self, number: float) -> float:
        """When so many requests of the chunk have arrived: the root of rate * t + slope * t**2 / 2 = number."""
        root = math.sqrt(max(0.0, self.rate**2 + 2 * self.slope * number))
        # In the form that is exact for a slope near 0 too.
        passed_s = 2 * number / (self.rate + root) if self.rate + root > 0 else 0.0
        return self.begin_s + min(passed_s, self.seconds)


def _chunks(profile: Profile) -> Iterator[_Chunk]:
    for (begin_s, begin_rate), (end_s, end_rate) in itertools.pairwise(profile):
        count = math.ceil((end_s - begin_s) / CHUNK_S)
        points = [(begin_s + (end_s - begin_s) * n / count, begin_rate + (end_rate - begin_rate) * n / count)
                  for n in range(count + 1 if count else 0)]  # fmt: skip
        yield from itertools.starmap(_Chunk, itertools.pairwise(points))
