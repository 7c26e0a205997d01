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
    return math.floor(sum(_area(piece, piece[1][0]) for piece in _pieces(profile)) + _ROUNDING)


def arrivals(
    profile: Profile, spacing: Spacing, rng: random.Random, *, worker: int = 0, workers: int = 1
) -> Iterator[float]:
    """Times in seconds from the profile's begin, ascending: this worker's share of `workers` equal ones.

    The shares add up to `expected(profile)` requests. Poisson shares make a Poisson process together; constant ones
    take turns.
    """
    before = 0.0
    offset = worker / workers
    for piece in _pieces(profile):
        (begin_s, _), (end_s, _) = piece
        chunks = max(1, math.ceil((end_s - begin_s) / CHUNK_S))
        area_before = 0.0
        for chunk in range(chunks):
            area_after = _area(piece, begin_s + (end_s - begin_s) * (chunk + 1) / chunks)
            low, high = before + area_before, before + area_after
            first = math.floor(low / workers + offset + _ROUNDING) + 1
            last = math.floor(high / workers + offset + _ROUNDING)
            if spacing == "poisson":
                areas = sorted(rng.uniform(area_before, area_after) for _ in range(first, last + 1))
            else:
                areas = [(number - offset) * workers - before for number in range(first, last + 1)]
            for area in areas:
                yield _time_of(piece, area)
            area_before = area_after
        before += area_before


_Piece = tuple[tuple[float, float], tuple[float, float]]


def _pieces(profile: Profile) -> list[_Piece]:
    return [(a, b) for a, b in itertools.pairwise(profile) if b[0] > a[0]]


def _area(piece: _Piece, time_s: float) -> float:
    """Requests of a piece from its begin to a time within it."""
    (begin_s, begin_rate), (end_s, end_rate) = piece
    passed_s = time_s - begin_s
    slope = (end_rate - begin_rate) / (end_s - begin_s)
    return begin_rate * passed_s + slope * passed_s**2 / 2


def _time_of(piece: _Piece, area: float) -> float:
    """The time at which `area` requests of a piece have arrived: the inverse of `_area`."""
    (begin_s, begin_rate), (end_s, end_rate) = piece
    slope = (end_rate - begin_rate) / (end_s - begin_s)
    root = math.sqrt(max(0.0, begin_rate**2 + 2 * slope * area))
    # In the form that is exact for a slope near 0 too.
    passed_s = 2 * area / (begin_rate + root) if begin_rate + root > 0 else 0.0
    return begin_s + min(passed_s, end_s - begin_s)
