"""What became of the requests: a row each, which workers send and the run keeps. No I/O here.

A request belongs to the second that it was meant to be sent in, so that a server which answers late does not move its
latencies to a better moment. Times are seconds from the begin of the stage.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from load.histogram import Histogram

OK = grpc.StatusCode.OK.name
WRONG_ANSWER = "WRONG_ANSWER"
"""Outcome of an answer with another number of rows than the request."""
UNFINISHED = "UNFINISHED"
"""Outcome of a request that was under way when a run was interrupted."""
OUTCOMES = (*(code.name for code in grpc.StatusCode), WRONG_ANSWER, UNFINISHED)
KINDS = ("single", "batch", "stream", "long")
ROW = np.dtype(
    [
        ("intended_s", "f8"),
        ("late_ms", "f4"),  # from the intended time to the actual sending: what the generator itself adds
        ("latency_ms", "f4"),  # from the intended time to the end of the request
        ("kind", "u1"),
        ("outcome", "u1"),
        ("texts", "u2"),
    ]
)


def row(kind: str, times_s: tuple[float, float, float], outcome: str, texts: int) -> tuple[float | int, ...]:
    """One of `ROW`, of the times a request was meant to be sent at, was sent at, and ended at."""
    intended_s, sent_s, ended_s = times_s
    late_ms, latency_ms = 1000 * (sent_s - intended_s), 1000 * (ended_s - intended_s)
    return intended_s, late_ms, latency_ms, KINDS.index(kind), OUTCOMES.index(outcome), texts


class Requests:
    """Requests of a stage, or some of them."""

    def __init__(self, rows: Sequence[tuple[float | int, ...]] | NDArray[Any] = ()) -> None:
        self._chunks: list[NDArray[Any]] = [rows if isinstance(rows, np.ndarray) else np.array(list(rows), ROW)]

    def add(self, rows: NDArray[Any]) -> None:
        """Take more in."""
        self._chunks.append(rows)

    @property
    def rows(self) -> NDArray[Any]:
        """All, as an array of `ROW`."""
        if len(self._chunks) > 1:
            self._chunks = [np.concatenate(self._chunks)]
        return self._chunks[0]

    def between(self, begin_s: float, end_s: float) -> Requests:
        """Those meant to be sent in a span."""
        times_s = self.rows["intended_s"]
        return Requests(self.rows[(times_s >= begin_s) & (times_s < end_s)])

    def answered(self, begin_s: float, end_s: float) -> Requests:
        """Those with good answers that came in a span, whenever they were sent."""
        good = self.outcome(OK).rows
        ended_s = good["intended_s"] + good["latency_ms"] / 1000
        return Requests(good[(ended_s >= begin_s) & (ended_s < end_s)])

    def kind(self, kind: str) -> Requests:
        """Those of a kind."""
        return Requests(self.rows[self.rows["kind"] == KINDS.index(kind)])

    def outcome(self, outcome: str) -> Requests:
        """Those that ended so: OK or a gRPC code."""
        return Requests(self.rows[self.rows["outcome"] == OUTCOMES.index(outcome)])

    def seconds(self) -> Iterator[tuple[int, Requests, Requests]]:
        """Each second, without gaps, with the requests meant for it and with those whose good answers came in it."""
        meant, good = self.rows, self.outcome(OK).rows
        sent_s, ended_s = meant["intended_s"], good["intended_s"] + good["latency_ms"] / 1000
        last = int(max(sent_s.max(initial=-1), ended_s.max(initial=-1))) + 1
        of_second = zip(_cut(meant, sent_s, last), _cut(good, ended_s, last), strict=True)
        for second, (begun, answered) in enumerate(of_second):
            yield second, begun, answered

    @property
    def count(self) -> int:
        """How many."""
        return len(self.rows)

    @property
    def texts(self) -> int:
        """Texts in them."""
        return int(self.rows["texts"].sum())

    @property
    def finished(self) -> int:
        """How many ended, well or not."""
        return self.count - self.outcome(UNFINISHED).count

    @property
    def failures(self) -> Counter[str]:
        """How many failed, by gRPC code."""
        numbers, counts = np.unique(self.rows["outcome"], return_counts=True)
        found = {OUTCOMES[number]: int(count) for number, count in zip(numbers, counts, strict=True)}
        return Counter({name: count for name, count in found.items() if name not in (OK, UNFINISHED)})

    @property
    def failed_percent(self) -> float | None:
        """Failures in percent of those that ended; None if none did."""
        return 100 * self.failures.total() / self.finished if self.finished else None

    def latency(self, percent: float) -> float | None:
        """Percentile of the good answers' latency in milliseconds, from the intended time; None without any."""
        return _percentile(self.outcome(OK).rows["latency_ms"], percent)

    def service(self, percent: float) -> float | None:
        """Percentile of the milliseconds from the actual sending to the end, of all that ended in whatever way."""
        return _percentile(self.rows["latency_ms"] - self.rows["late_ms"], percent)

    def late(self, percent: float) -> float | None:
        """Percentile of the milliseconds that they were sent after their time."""
        return _percentile(self.rows["late_ms"], percent)

    def histogram(self) -> Histogram:
        """Latencies of the good answers."""
        return Histogram(self.outcome(OK).rows["latency_ms"])


def _cut(rows: NDArray[Any], times_s: NDArray[Any], seconds: int) -> Iterator[Requests]:
    """The rows of each second that their times lie in."""
    order = np.argsort(times_s)
    bounds = np.searchsorted(times_s[order], range(seconds + 1))
    return (Requests(rows[order[begin:end]]) for begin, end in itertools.pairwise(bounds))


def _percentile(values: NDArray[Any], percent: float) -> float | None:
    """The least value that `percent` of them do not exceed."""
    if not len(values):
        return None
    rank = max(1, math.ceil(len(values) * percent / 100 - 1e-9))
    return float(np.partition(values, rank - 1)[rank - 1])
