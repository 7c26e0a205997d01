"""The simulation of a fleet, against what is known without it: queueing theory, arithmetic, Kubernetes' own rules."""

import numpy as np
import pytest

from bench.fleet.day import Fleet, simulate_day
from bench.fleet.events import Pod, Steady, poisson, simulate
from bench.fleet.scaling import Rules, Scaler
from bench.fleet.traffic import day

ONE_BY_ONE = Pod(instances=1, batch=1, fixed_s=0.01, token_s=0.0)
BATCHES = Pod(instances=2, fixed_s=0.002, token_s=0.0004)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_single_server_waits_as_pollaczek_and_khinchine_say(share: float) -> None:
    arrivals = poisson(share * 100, 1000, seed=3)
    outcome = simulate(arrivals, [0] * len(arrivals), servers=1, pod=ONE_BY_ONE)
    # For one server with constant service: share x service / (2 (1 - share)).
    wait_s = share * 0.01 / (2 * (1 - share))
    assert np.mean(outcome.latencies_s) - 0.01 == pytest.approx(wait_s, rel=0.08)
    # Little's law.
    assert outcome.waiting == pytest.approx(share * 100 * wait_s, rel=0.08)


def test_what_waits_shares_an_execution() -> None:
    outcome = simulate([0.0] * 20, [10] * 20, servers=1, pod=Pod(instances=1, fixed_s=1.0, token_s=0.1))
    # The first finds an idle instance; then eight at a time: 1 + 8 s for each batch of eight, 1 + 3 for the last three.
    assert outcome.latencies_s.tolist() == pytest.approx([2.0] + [11.0] * 8 + [20.0] * 8 + [24.0] * 3)
    assert outcome.executions == 4


def test_the_bound_refuses_and_the_rest_is_answered() -> None:
    outcome = simulate([0.0] * 20, [0] * 20, servers=1, pod=Pod(instances=1, fixed_s=1.0, token_s=0.0, bound=12))
    assert outcome.refused == 8
    assert np.isnan(outcome.latencies_s[12:]).all()


def test_the_door_prefers_the_less_busy() -> None:
    arrivals = poisson(0.7 * 4 * 100, 200, seed=4)
    outcome = simulate(arrivals, [0] * len(arrivals), servers=4, pod=ONE_BY_ONE)
    alone = simulate(poisson(70, 200, seed=4), [0] * len(arrivals), servers=1, pod=ONE_BY_ONE)
    assert outcome.percentile(99) < 0.7 * alone.percentile(99)


def _scaler(**given: float) -> Scaler:
    rules = {"least": 1, "most": 100, "start_s": 30, "window_s": 1, "delay_s": 0, **given}
    return Scaler(Rules(targets={"busy": 1.0}, **rules), 10)  # type: ignore[arg-type]  # all are whole numbers


def test_a_tenth_more_or_less_changes_nothing() -> None:
    scaler = _scaler()
    for busy in (10.9, 9.1):
        scaler.second(0, {"busy": busy})
        assert scaler.replicas == 10


def test_up_is_at_once_but_no_more_than_twice_and_ready_later() -> None:
    scaler = _scaler()
    scaler.second(0, {"busy": 50.0})
    assert (scaler.replicas, scaler.ready) == (20, 10)
    scaler.second(15, {"busy": 50.0})
    assert (scaler.replicas, scaler.ready) == (40, 10)
    scaler.second(30, {"busy": 50.0})
    assert (scaler.replicas, scaler.ready) == (50, 20)
    scaler.second(45, {"busy": 50.0})
    scaler.second(60, {"busy": 50.0})
    assert (scaler.replicas, scaler.ready) == (50, 50)


def test_down_waits_for_the_window_and_goes_by_a_tenth_a_minute() -> None:
    scaler = _scaler(down_s=300)
    for now in range(0, 300, 15):
        scaler.second(now, {"busy": 10.0})
    seen = []
    for now in range(300, 300 + 480, 15):
        scaler.second(now, {"busy": 2.0})
        seen.append(scaler.replicas)
    assert set(seen[: 285 // 15]) == {10}
    assert seen[285 // 15] == 9
    assert seen[-1] >= 6


def test_the_largest_of_several_metrics_counts() -> None:
    scaler = Scaler(
        Rules(targets={"busy": 1.0, "waiting": 8.0}, least=1, most=100, start_s=0, window_s=1, delay_s=0), 10
    )
    scaler.second(0, {"busy": 10.0, "waiting": 160.0})
    assert scaler.replicas == 20


@pytest.fixture(scope="module")
def steady() -> Steady:
    return Steady.of(BATCHES, [20, 100, 300], texts=8000)


def test_seconds_tell_what_events_tell(steady: Steady) -> None:
    rate = 0.8 * 4 * BATCHES.rate(140)
    arrivals = poisson(rate, 300, seed=5)
    tokens = np.random.default_rng(5).choice([20, 100, 300], len(arrivals)).tolist()
    events = simulate(arrivals, tokens, servers=4, pod=BATCHES)
    fleet = Fleet(pod=BATCHES, steady=steady, tokens=140, rules=Rules(targets={"busy": 1.0}, least=4, most=4))
    seconds = simulate_day(np.full(300, rate), fleet)
    assert seconds.waiting[60:].mean() == pytest.approx(events.waiting, rel=0.25)
    assert np.median(seconds.p99_s[60:]) == pytest.approx(events.percentile(99), rel=0.25)


def test_what_is_too_much_queues_up_as_in_events(steady: Steady) -> None:
    # A bound that is not reached, so that nothing is refused.
    pod = Pod(instances=2, fixed_s=0.002, token_s=0.0004, bound=100_000)
    rate = 1.5 * 4 * pod.rate(140)
    arrivals = poisson(rate, 60, seed=6)
    events = simulate(arrivals, [140] * len(arrivals), servers=4, pod=pod)
    fleet = Fleet(pod=pod, steady=steady, tokens=140, rules=Rules(targets={"busy": 1.0}, least=4, most=4))
    seconds = simulate_day(np.full(60, rate), fleet)
    last_s = float(np.mean(events.latencies_s[-50:]))
    assert seconds.p99_s[-1] == pytest.approx(last_s, rel=0.25)


def test_a_day_has_its_peak_and_its_bursts() -> None:
    rates = day(100)
    assert 100 < rates.max() < 1000
    assert rates.min() > 5
    assert (rates == day(100)).all()
