"""The search for the knee, against servers that are formulas."""

import itertools
from collections.abc import Callable

import pytest

from load import knee

Run = Callable[[float, bool], knee.Step]


def server(capacity: float, *, generator_limit: float = float("inf"), hiccups: tuple[int, ...] = ()) -> Run:
    """A server whose latency rises steeply at its capacity; `hiccups` are the numbers of steps that miss narrowly."""
    calls = itertools.count(1)

    def run(rate: float, is_confirmation: bool) -> knee.Step:
        limited = rate > generator_limit
        latency = 10 / (1 - rate / capacity) if rate < capacity else 5000.0
        if next(calls) in hiccups:
            latency = 240.0
        return knee.Step(rate, min(rate, capacity), 9000.0 if limited else latency, 0.0, limited, is_confirmation)

    return run


def find(run: Run) -> knee.Knee:
    return knee.search(run, start_rate=20, latency_limit_ms=200, failures_limit_percent=0.1)


def rate_of(run: Run) -> float:
    rate = find(run).rate
    assert rate is not None
    return rate


@pytest.mark.parametrize("capacity", [3, 22, 150, 4000])
def test_finds_the_highest_rate_within_its_resolution(capacity: float) -> None:
    found = find(server(capacity))
    truth = capacity * (1 - 10 / 200)
    assert found.rate is not None
    assert truth / knee.RESOLUTION <= found.rate <= truth
    assert found.steps[-1].is_confirmation
    assert not found.is_generator_limit


def test_a_single_hiccup_decides_nothing() -> None:
    assert rate_of(server(150, hiccups=(2, 5))) == rate_of(server(150))


def test_stops_where_the_generator_is_the_bottleneck_and_says_so() -> None:
    found = find(server(1000, generator_limit=100))
    assert found.is_generator_limit
    assert found.rate is not None
    assert found.rate <= 100


def test_a_server_that_carries_nothing_has_no_knee() -> None:
    found = find(server(0.01))
    assert found.rate is None
    assert len(found.steps) < 30


def test_refusals_end_a_step_however_fast_the_rest_is() -> None:
    def run(rate: float, is_confirmation: bool) -> knee.Step:
        return knee.Step(rate, min(rate, 50), 5.0, 100 * max(0.0, 1 - 50 / rate), False, is_confirmation)

    assert 50 / knee.RESOLUTION <= rate_of(run) <= 50.1


def test_answers_that_fall_behind_end_a_step() -> None:
    """Latency alone would not show it: the step may be over before the queue is long."""

    def run(rate: float, is_confirmation: bool) -> knee.Step:
        return knee.Step(rate, min(rate, 60), 100.0, 0.0, False, is_confirmation)

    assert rate_of(run) <= 60 / knee.BEHIND


def test_a_rate_that_does_not_hold_when_confirmed_is_lowered() -> None:
    def run(rate: float, is_confirmation: bool) -> knee.Step:
        limit = 80 if is_confirmation else 100
        return knee.Step(rate, rate, 50.0 if rate < limit else 900.0, 0.0, False, is_confirmation)

    assert 80 / knee.RESOLUTION**3 <= rate_of(run) < 80


def test_fewer_arrivals_than_the_rate_are_no_fault_of_the_server() -> None:
    """Poisson arrivals of a short span vary: what was sent counts, not what was meant."""
    assert knee.Step(20, 16.0, 5.0, 0.0, sent_rate=16.1).passes(200, 0.1)
    assert not knee.Step(20, 16.0, 5.0, 0.0, sent_rate=20.0).passes(200, 0.1)
