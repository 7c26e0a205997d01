"""The highest rate a server sustains within a goal: steps up until it fails, then bisection. No I/O here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

FACTOR_UP = 1.5
RESOLUTION = 1.05
"""The search ends when the lowest rate that failed is at most this many times the highest that passed."""
NARROW = 1.5
"""A step that misses its latency goal by less than this factor is run once more: one hiccup decides nothing."""
BEHIND = 0.95
"""Least share of the offered rate that a server which keeps up answers within a step."""
CONFIRMATIONS = 4
LOWEST_RATE = 0.2


@dataclass(frozen=True)
class Step:
    """One rate, tried."""

    rate: float
    """Requests per second offered."""
    answered_rate: float
    """Good answers per second while requests were sent."""
    latency_ms: float | None
    """The percentile that has the goal."""
    failures_percent: float
    is_generator_limit: bool = False
    """Whether the generator could not send on time: then the step says nothing about the server."""
    is_confirmation: bool = False
    sent_rate: float | None = None
    """Requests per second that were sent in the judged span, which Poisson arrivals let vary; None means `rate`."""

    def passes(self, latency_limit_ms: float, failures_limit_percent: float) -> bool:
        """Whether the server carried the rate."""
        return (
            self.latency_ms is not None
            and self.latency_ms <= latency_limit_ms
            and self.failures_percent <= failures_limit_percent
            and self.answered_rate
            >= BEHIND * (self.rate if self.sent_rate is None else self.sent_rate) * (1 - self.failures_percent / 100)
        )


@dataclass(frozen=True)
class Knee:
    """Where it is."""

    rate: float | None
    """Highest rate confirmed, requests per second; None if none passed."""
    upper: float | None
    """Lowest rate that failed above it; None if none did."""
    is_generator_limit: bool
    """Whether the search ended because the generator could send no faster."""
    steps: tuple[Step, ...]
    """In the order in which they were run: the last confirms the rate, if there is one."""


def search(
    run: Callable[[float, bool], Step],
    *,
    start_rate: float,
    latency_limit_ms: float,
    failures_limit_percent: float,
    highest_rate: float = math.inf,
) -> Knee:
    """Find the knee with `run(rate, is_confirmation)`, which offers a rate for a while and says what came of it.

    Rates go up by half until one fails, down likewise if the first does, then the gap is halved (geometrically) until
    it is within 5%. The highest that passed is run again, longer; if that fails, one lower by 5%,
    then by 10% and 15% of that.
    """
    steps: list[Step] = []

    def passes(rate: float, *, confirm: bool = False) -> bool:
        for _ in range(2):
            step = run(rate, confirm)
            steps.append(step)
            if step.passes(latency_limit_ms, failures_limit_percent):
                return True
            narrowly = step.latency_ms is not None and step.latency_ms <= NARROW * latency_limit_ms
            if step.is_generator_limit or not narrowly or step.failures_percent > failures_limit_percent:
                break
        return False

    def is_limit() -> bool:
        return any(
            step.is_generator_limit and not step.passes(latency_limit_ms, failures_limit_percent) for step in steps
        )

    low, high = _bracket(passes, min(start_rate, highest_rate), highest_rate)
    while low is not None and high is not None and high / low > RESOLUTION and not is_limit():
        middle = math.sqrt(low * high)
        low, high = (middle, high) if passes(middle) else (low, middle)
    rate = low
    for attempt in range(1, CONFIRMATIONS + 1):
        if rate is None:
            break
        if passes(rate, confirm=True):
            return Knee(rate, high, is_limit(), tuple(steps))
        high, rate = rate, rate / RESOLUTION**attempt
    return Knee(None, high, is_limit(), tuple(steps))


def _bracket(passes: Callable[[float], bool], rate: float, highest_rate: float) -> tuple[float | None, float | None]:
    """A rate that passes and the next that fails."""
    if passes(rate):
        while rate < highest_rate:
            higher = min(rate * FACTOR_UP, highest_rate)
            if not passes(higher):
                return rate, higher
            rate = higher
        return rate, None
    while rate / FACTOR_UP >= LOWEST_RATE:
        lower = rate / FACTOR_UP
        if passes(lower):
            return lower, rate
        rate = lower
    return None, rate
