"""Latencies counted in buckets that grow by 2%, so that percentiles of any run are within 1% and merge exactly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

SMALLEST_MS = 0.01
GROWTH = 1.02
_LOG_GROWTH = math.log(GROWTH)


class Histogram:
    """Counts by bucket; bucket n holds values around `SMALLEST_MS * GROWTH ** n` milliseconds."""

    __slots__ = ("counts",)

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self.counts: Counter[int] = Counter()
        for bucket, count in pairs:
            self.counts[bucket] += count

    def add(self, milliseconds: float) -> None:
        """Count one value."""
        self.counts[bucket_of(milliseconds)] += 1

    def merge(self, other: Histogram) -> None:
        """Count what the other counted."""
        self.counts.update(other.counts)

    @property
    def total(self) -> int:
        """Values counted."""
        return sum(self.counts.values())

    def percentile(self, percent: float) -> float | None:
        """The value, in milliseconds, that `percent` of the values do not exceed; None without values."""
        left = math.ceil(self.total * percent / 100)
        if not self.counts:
            return None
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                return value_of(bucket)
        return value_of(max(self.counts))

    def pairs(self) -> list[tuple[int, int]]:
        """Buckets and counts, for JSON; `Histogram(pairs)` makes it again."""
        return sorted(self.counts.items())


def bucket_of(milliseconds: float) -> int:
    """The bucket that holds a value."""
    if milliseconds <= SMALLEST_MS:
        return 0
    return round(math.log(milliseconds / SMALLEST_MS) / _LOG_GROWTH)


def value_of(bucket: int) -> float:
    """The middle of a bucket, milliseconds."""
    return float(SMALLEST_MS * GROWTH**bucket)


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All of them in one."""
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole
