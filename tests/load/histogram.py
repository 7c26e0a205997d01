"""Latencies in a form that merges exactly and fits in JSON: HdrHistogram, in milliseconds.

Values are kept to three digits, from a microsecond to ten hours (http://hdrhistogram.org).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from hdrh.histogram import HdrHistogram

US_PER_MS = 1000
HIGHEST_US = 36_000_000_000
DIGITS = 3
ROUNDING = 1e-6


class Histogram:
    """Counts of latencies."""

    def __init__(self, milliseconds: Iterable[float] = ()) -> None:
        self._counts = HdrHistogram(1, HIGHEST_US, DIGITS)
        for value in milliseconds:
            self.add(value)

    @classmethod
    def from_text(cls, text: str) -> Histogram:
        """What `to_text` gave."""
        histogram = cls()
        histogram._counts.decode_and_add(text)
        return histogram

    def to_text(self) -> str:
        """HdrHistogram's own compressed form, as every implementation of it reads; for JSON."""
        return str(self._counts.encode().decode())

    def add(self, milliseconds: float, count: int = 1) -> None:
        """Count a value; what is below a microsecond or above ten hours counts as that."""
        self._counts.record_value(min(max(1, round(milliseconds * US_PER_MS)), HIGHEST_US), count)

    def merge(self, other: Histogram) -> None:
        """Count what the other counted."""
        self._counts.add(other._counts)

    @property
    def total(self) -> int:
        """Values counted."""
        return int(self._counts.get_total_count())

    def percentile(self, percent: float) -> float | None:
        """The least value, in milliseconds, that `percent` of the values do not exceed; None without values."""
        if not self.total:
            return None
        # What `get_value_at_percentile` does, without its loop in Python.
        passed = np.cumsum(np.ctypeslib.as_array(self._counts.encoder.get_counts()))
        index = int(np.searchsorted(passed, max(1, math.ceil(self.total * percent / 100 - ROUNDING))))
        return float(self._counts.get_highest_equivalent_value(self._counts.get_value_from_index(index)) / US_PER_MS)

    def shares(self) -> Iterator[tuple[float, float]]:
        """For a chart: (milliseconds, percent of the values that do not exceed them), ascending."""
        passed = 0
        for item in self._counts.get_recorded_iterator():
            passed += item.count_added_in_this_iter_step
            yield item.value_iterated_to / US_PER_MS, 100 * passed / self.total


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All of them in one."""
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole
