"""What a run found, as plain numbers: figures, a row a second, and the findings of each shape. No I/O here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from load.goals import Verdict
from load.buckets import value_of
from load.record import OK, Cell, Recorder, total
from load.sampling import Sample
from load.shapes import Part

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
BLOCKS = 20
"""Spans that a run is cut into, to see how much it varies within itself."""
LATE_MS = 20.0
"""99% of the requests left on time if they were no later than this, or than a tenth of the latency goal."""
BUSY_SHARE = 0.9
"""Of one core: a generator process that takes more cannot be trusted to send on time."""

REFUSAL_MS = {50: 10.0, 99: 100.0}
RECOVERY_LIMIT_S = 5
RECOVERY_SPAN_S = 3
MEMORY_SHARE = 0.05
MEMORY_MIB = 32.0
BOUND_FACTOR = 2.0


@dataclass(frozen=True)
class Queue:
    """What the settings of a queue allow."""

    size: int
    """Requests; 0 means without bound."""
    timeout_s: float
    """0 means none."""

    def bound_s(self, served_per_s: float) -> float:
        """The longest wait it implies: its size over the service rate (Little's law), or its timeout."""
        by_size = self.size / served_per_s if self.size and served_per_s > 0 else math.inf
        return min(by_size, self.timeout_s or math.inf)


def figures(recorder: Recorder, begin_s: float, end_s: float) -> dict[str, float | None]:
    """Rates, failures and percentiles of the requests meant for a span.

    `rate` counts the good answers to them that came within the span or a second after it, over the span's length.
    """
    cell = recorder.total(begin_s, end_s)
    seconds = end_s - begin_s
    in_time = recorder.total(begin_s, end_s + 1)
    good = min(cell.ok.total, in_time.answered)
    found: dict[str, float | None] = {
        "sent": cell.sent,
        "answers": cell.ok.total,
        "rate": good / seconds,
        "offered": cell.sent / seconds,
        "texts_per_s": in_time.texts / seconds * (good / in_time.answered if in_time.answered else 0),
        "failures": 100 * sum(cell.failures.values()) / cell.finished if cell.finished else None,
    }
    for percent in PERCENTILES:
        found[f"p{percent:g}"] = cell.ok.percentile(percent)
    found["max"] = value_of(max(cell.ok.counts)) if cell.ok.counts else None
    return found


def goal_figures(
    recorder: Recorder, begin_s: float, end_s: float, percents: Sequence[float]
) -> dict[str, float | None]:
    """The same, with further percentiles that goals name."""
    cell = recorder.total(begin_s, end_s)
    more = {f"p{percent:g}": cell.ok.percentile(percent) for percent in percents}
    return {**figures(recorder, begin_s, end_s), **more}


def generator_problem(late_p99_ms: float | None, cpu_shares: Sequence[float], latency_goal_ms: float | None) -> str:
    """Why the generator was the bottleneck, empty if it was not."""
    limit_ms = max(LATE_MS, (latency_goal_ms or 0) / 10)
    if late_p99_ms is not None and late_p99_ms > limit_ms:
        return f"1% of the requests left more than {late_p99_ms:.0f} ms late (limit {limit_ms:.0f} ms)"
    busy = statistics.median(cpu_shares) if cpu_shares else 0.0
    if busy > BUSY_SHARE:
        return f"a generator process took {100 * busy:.0f}% of a core (limit {100 * BUSY_SHARE:.0f}%)"
    return ""


def rows(recorder: Recorder, offset_s: float, name: str) -> list[dict[str, Any]]:
    """A row a second, times from the begin of the run."""
    return [
        {
            "time_s": round(offset_s + second, 3),
            "stage": name,
            "sent": cell.sent,
            "answered": cell.answered,
            "texts": cell.texts,
            "failed": dict(cell.failures),
            "p50": cell.ok.percentile(50),
            "p90": cell.ok.percentile(90),
            "p99": cell.ok.percentile(99),
            "late_p99": cell.late.percentile(99),
        }
        for second, cell in recorder.by_second().items()
    ]


def blocks(recorder: Recorder, begin_s: float, end_s: float) -> list[dict[str, Any]]:
    """The span cut into pieces of equal length, each with its counts: what `load.compare` draws from."""
    length = max(1, math.ceil((end_s - begin_s) / BLOCKS))
    pieces = []
    for begin in range(math.floor(begin_s), math.floor(end_s), length):
        end = min(begin + length, math.floor(end_s))
        cell = recorder.total(begin, end)
        pieces.append(
            {
                "seconds": end - begin,
                "answered": cell.answered,
                "failed": sum(cell.failures.values()),
                "latency": cell.ok.pairs(),
            }
        )
    return pieces


def overload_verdicts(
    recorder: Recorder,
    samples: Sequence[Sample],
    parts: Sequence[Part],
    queue: Queue | None,
    latency_goal_ms: float,
) -> list[Verdict]:
    """Whether the server bears three times what it can: `samples` with times from the begin of the stage."""
    before, overload, after = parts
    cell = recorder.total(overload.begin_s, overload.end_s)
    refusals = cell.service.get("UNAVAILABLE")
    others = {code: count for code, count in cell.failures.items() if code != "UNAVAILABLE"}
    verdicts = [
        Verdict(
            "the excess is refused, and with UNAVAILABLE alone",
            ", ".join(f"{code} {count}" for code, count in sorted(cell.failures.items())) or "nothing was refused",
            is_met=bool(refusals) and not others,
        )
    ]
    if refusals:
        taken_ms = {share: refusals.percentile(share) or 0.0 for share in REFUSAL_MS}
        verdicts.append(
            Verdict(
                "refusals within " + " and ".join(f"{ms:g} ms at p{share}" for share, ms in REFUSAL_MS.items()),
                ", ".join(f"p{share} {ms:.3g} ms" for share, ms in taken_ms.items()),
                is_met=all(taken_ms[share] <= limit_ms for share, limit_ms in REFUSAL_MS.items()),
            )
        )
    verdicts.append(_bound_verdict(cell, overload, queue))
    memory = memory_verdict(samples, overload.begin_s, overload.end_s)
    if memory is not None:
        verdicts.append(memory)
    normal_ms = max(latency_goal_ms, 2 * (recorder.total(before.begin_s, before.end_s).ok.percentile(99) or 0.0))
    back_s = recovery_s(recorder, after, normal_ms)
    verdicts.append(
        Verdict(
            f"back to normal within {RECOVERY_LIMIT_S} s: no failures, p99 within {normal_ms:.0f} ms",
            "not within the run" if back_s is None else f"after {back_s} s",
            is_met=back_s is not None and back_s <= RECOVERY_LIMIT_S,
        )
    )
    return verdicts


def _bound_verdict(cell: Cell, overload: Part, queue: Queue | None) -> Verdict:
    seconds = overload.end_s - overload.begin_s
    p99 = cell.ok.percentile(99)
    served = cell.ok.total / seconds
    bound_s = queue.bound_s(served) if queue else math.inf
    if math.isinf(bound_s):
        return Verdict("accepted requests: p99 under twice the queue's bound", "the queue has no bound", is_met=False)
    by = f"{queue.size} requests at {served:.0f}/s" if queue and bound_s != queue.timeout_s else "its timeout"
    return Verdict(
        f"accepted requests: p99 under {BOUND_FACTOR:g} x {bound_s:.2f} s, the queue's bound ({by})",
        "no answers" if p99 is None else f"{p99 / 1000:.2f} s",
        is_met=p99 is not None and p99 / 1000 < BOUND_FACTOR * bound_s,
    )


def memory_verdict(samples: Sequence[Sample], begin_s: float, end_s: float) -> Verdict | None:
    """Whether memory was flat: the median of the last quarter against that of the second; None if it is not known."""
    quarter_s = (end_s - begin_s) / 4

    def median(first: int) -> float | None:
        low_s, high_s = begin_s + first * quarter_s, begin_s + (first + 1) * quarter_s
        values = [s.memory_mib for s in samples if low_s <= s.time_s < high_s and s.memory_mib is not None]
        return statistics.median(values) if values else None

    early, late = median(1), median(3)
    if early is None or late is None:
        return None
    limit = max(MEMORY_MIB, MEMORY_SHARE * early)
    return Verdict(
        f"memory flat: at most {limit:.0f} MiB more in the last quarter than in the second",
        f"{late - early:+.0f} MiB of {early:.0f}",
        is_met=late - early <= limit,
    )


def recovery_s(recorder: Recorder, after: Part, normal_ms: float) -> int | None:
    """Seconds into `after` from which on three seconds in a row are normal; None if there are none."""
    for begin in range(math.floor(after.begin_s), math.floor(after.end_s) - RECOVERY_SPAN_S + 1):
        span = total(cell for (second, _), cell in recorder.cells.items() if begin <= second < begin + RECOVERY_SPAN_S)
        p99 = span.latency[OK].percentile(99) if OK in span.latency else None
        if p99 is not None and p99 <= normal_ms and not span.failures:
            return begin - math.floor(after.begin_s)
    return None


def by_kind(recorder: Recorder, begin_s: float, end_s: float) -> dict[str, Mapping[str, float | None]]:
    """Counts and percentiles of each kind of request."""
    table: dict[str, Mapping[str, float | None]] = {}
    for kind in recorder.kinds():
        cell = recorder.total(begin_s, end_s, kind)
        table[kind] = {
            "sent": cell.sent,
            "failures": 100 * sum(cell.failures.values()) / cell.finished if cell.finished else None,
            **{f"p{percent:g}": cell.ok.percentile(percent) for percent in (50.0, 90.0, 99.0)},
        }
    return table


def sample_rows(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The server's side, for JSON."""
    return [asdict(sample) for sample in samples]
