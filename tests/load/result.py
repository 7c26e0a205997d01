"""The figures of a run as plain numbers: of a span, of each second, of each kind of request. No I/O here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from load.record import KINDS, OK, Requests

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9, 100.0)
BLOCKS = 20
"""Spans that a run is cut into, to see how much it varies within itself."""
LATE_MS = 20.0
"""99% of the requests left on time if they were no later than this, or than a tenth of the latency goal."""
BUSY_SHARE = 0.9
"""Of one core: a generator process that takes more cannot be trusted to send on time."""
Figures = dict[str, float | None]


def figures(requests: Requests, begin_s: float, end_s: float, percents: Sequence[float] = ()) -> Figures:
    """Rates, failures and percentiles of the requests meant for a span; `percents` are added to the usual ones.

    `rate` counts the good answers to them that came within the span or a second after it, over the span's length.
    """
    meant, seconds = requests.between(begin_s, end_s), end_s - begin_s
    in_time = meant.answered(begin_s, end_s + 1)
    return {
        "sent": meant.count,
        "answers": meant.outcome(OK).count,
        "rate": in_time.count / seconds,
        "offered": meant.count / seconds,
        "texts_per_s": in_time.texts / seconds,
        "failures": meant.failed_percent,
        **{f"p{percent:g}": meant.latency(percent) for percent in (*PERCENTILES, *percents)},
    }


def by_kind(requests: Requests, begin_s: float, end_s: float) -> dict[str, Figures]:
    """The same of each kind of request that occurs."""
    found = {kind: figures(requests.kind(kind), begin_s, end_s) for kind in KINDS}
    return {kind: each for kind, each in found.items() if each["sent"]}


def seconds(requests: Requests, offset_s: float, stage: str) -> list[dict[str, Any]]:
    """A row a second, times from the begin of the run; the answers are those that came in it."""
    rows = []
    for second, meant, answered in requests.seconds():
        rows.append(
            {
                "time_s": round(offset_s + second, 3),
                "stage": stage,
                "sent": meant.count,
                "answered": answered.count,
                "texts": answered.texts,
                "failed": dict(meant.failures),
                "p50": meant.latency(50),
                "p90": meant.latency(90),
                "p99": meant.latency(99),
                "late_p99": meant.late(99),
            }
        )
    return rows


def blocks(requests: Requests, begin_s: float, end_s: float) -> list[dict[str, Any]]:
    """The span cut into pieces of equal length, each with its counts: what `load.compare` draws from."""
    length = max(1, math.ceil((end_s - begin_s) / BLOCKS))
    pieces = []
    for begin in range(math.floor(begin_s), math.floor(end_s), length):
        end = min(begin + length, math.floor(end_s))
        meant = requests.between(begin, end)
        pieces.append(
            {
                "seconds": end - begin,
                "answered": requests.answered(begin, end).count,
                "failed": meant.failures.total(),
                "latency": meant.histogram().to_text(),
            }
        )
    return pieces


def generator_problem(late_p99_ms: float | None, cpu_shares: Sequence[float], latency_goal_ms: float | None) -> str:
    """Why the generator was the bottleneck, empty if it was not."""
    limit_ms = max(LATE_MS, (latency_goal_ms or 0) / 10)
    if late_p99_ms is not None and late_p99_ms > limit_ms:
        return f"1% of the requests left more than {late_p99_ms:.0f} ms late (limit {limit_ms:.0f} ms)"
    busy = statistics.median(cpu_shares) if cpu_shares else 0.0
    if busy > BUSY_SHARE:
        return f"a generator process took {100 * busy:.0f}% of a core (limit {100 * BUSY_SHARE:.0f}%)"
    return ""
