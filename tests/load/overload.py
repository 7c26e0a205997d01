"""Whether a server stays sane under more than it can do, and whether its memory stays flat. No I/O here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from load.goals import Verdict
from load.record import OK, Requests
from load.sampling import Sample
from load.shapes import Part

REFUSED = "UNAVAILABLE"
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


def verdicts(
    requests: Requests, samples: Sequence[Sample], parts: Sequence[Part], queue: Queue | None, latency_goal_ms: float
) -> list[Verdict]:
    """Whether the server bears three times what it can; times of `samples` are from the begin of the stage."""
    before, overload, after = parts
    during = requests.between(overload.begin_s, overload.end_s)
    refusals = during.outcome(REFUSED)
    told = ", ".join(f"{code} {count}" for code, count in sorted(during.failures.items()))
    alone = set(during.failures) == {REFUSED}
    found = [Verdict("the excess is refused, and with UNAVAILABLE alone", told or "nothing was refused", is_met=alone)]
    if refusals.count:
        taken_ms = {share: refusals.service(share) or 0.0 for share in REFUSAL_MS}
        found.append(
            Verdict(
                "refusals within " + " and ".join(f"{ms:g} ms at p{share}" for share, ms in REFUSAL_MS.items()),
                ", ".join(f"p{share} {ms:.3g} ms" for share, ms in taken_ms.items()),
                is_met=all(taken_ms[share] <= limit_ms for share, limit_ms in REFUSAL_MS.items()),
            )
        )
    found.append(_bound_verdict(during, overload.end_s - overload.begin_s, queue))
    memory = memory_verdict(samples, overload.begin_s, overload.end_s)
    if memory is not None:
        found.append(memory)
    normal_ms = max(latency_goal_ms, 2 * (requests.between(before.begin_s, before.end_s).latency(99) or 0.0))
    back_s = recovery_s(requests, after, normal_ms)
    found.append(
        Verdict(
            f"back to normal within {RECOVERY_LIMIT_S} s: no failures, p99 within {normal_ms:.0f} ms",
            "not within the run" if back_s is None else f"after {back_s} s",
            is_met=back_s is not None and back_s <= RECOVERY_LIMIT_S,
        )
    )
    return found


def _bound_verdict(during: Requests, seconds: float, queue: Queue | None) -> Verdict:
    p99 = during.latency(99)
    served = during.outcome(OK).count / seconds
    bound_s = queue.bound_s(served) if queue else math.inf
    if queue is None or math.isinf(bound_s):
        return Verdict("accepted requests: p99 under twice the queue's bound", "the queue has no bound", is_met=False)
    by = "its timeout" if bound_s == queue.timeout_s else f"{queue.size} requests at {served:.0f}/s"
    return Verdict(
        f"accepted requests: p99 under {BOUND_FACTOR:g} x {bound_s:.2f} s, the queue's bound ({by})",
        "no answers" if p99 is None else f"{p99 / 1000:.2f} s",
        is_met=p99 is not None and p99 / 1000 < BOUND_FACTOR * bound_s,
    )


def memory_verdict(samples: Sequence[Sample], begin_s: float, end_s: float) -> Verdict | None:
    """Whether memory was flat: the median of the last quarter against that of the second; None if it is not known."""
    quarter_s = (end_s - begin_s) / 4

    def median(quarter: int) -> float | None:
        low_s, high_s = begin_s + quarter * quarter_s, begin_s + (quarter + 1) * quarter_s
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


def recovery_s(requests: Requests, after: Part, normal_ms: float) -> int | None:
    """Seconds into `after` from which on three seconds in a row are normal; None if there are none."""
    first = math.floor(after.begin_s)
    for begin in range(first, math.floor(after.end_s) - RECOVERY_SPAN_S + 1):
        span = requests.between(begin, begin + RECOVERY_SPAN_S)
        p99 = span.latency(99)
        if p99 is not None and p99 <= normal_ms and not span.failures:
            return begin - first
    return None
