"""Figures, verdicts of an overload, and comparisons, of made-up requests."""

import random
from typing import Any

import numpy as np
import pytest

from load import compare, overload, result, shapes
from load.overload import Queue
from load.record import OK, ROW, UNFINISHED, Requests, row
from load.sampling import Sample


def test_latency_counts_from_the_intended_time_and_belongs_to_its_second() -> None:
    good = row("single", (1.5, 3.0, 3.25), OK, 16)
    refused = row("single", (1.75, 3.0, 3.01), "UNAVAILABLE", 16)
    second = Requests([good, refused]).between(1, 2)
    assert second.latency(50) == pytest.approx(1750)
    assert second.outcome("UNAVAILABLE").service(50) == pytest.approx(10, rel=0.01)
    assert second.outcome(OK).service(50) == pytest.approx(250)
    assert second.late(100) == pytest.approx(1500)
    # The answer makes the throughput of the second that it came in; a failure makes none.
    assert second.answered(1, 2).count == 0
    assert (second.answered(3, 4).count, second.answered(3, 4).texts) == (1, 16)
    rows = result.seconds(Requests([good, refused]), 10.0, "steady")
    assert [(each["time_s"], each["sent"], each["answered"], each["texts"]) for each in rows] == [
        (10, 0, 0, 0), (11, 2, 0, 0), (12, 0, 0, 0), (13, 0, 1, 16),
    ]  # fmt: skip
    assert [each["failed"] for each in rows] == [{}, {"UNAVAILABLE": 1}, {}, {}]


def test_a_request_under_way_at_an_interruption_was_sent_and_neither_answered_nor_failed() -> None:
    requests = Requests([row("single", (0.5, 0.5, 0.5), UNFINISHED, 0), row("long", (0.5, 0.5, 0.6), OK, 1)])
    assert (requests.count, requests.finished, requests.failures.total()) == (2, 1, 0)
    assert requests.failed_percent == 0
    assert requests.latency(99) == pytest.approx(100)
    assert {kind: found["sent"] for kind, found in result.by_kind(requests, 0, 1).items()} == {"single": 1, "long": 1}


def test_requests_survive_the_way_to_the_master() -> None:
    rows = [row("batch", (1.25, 1.5, 2.0), OK, 16), row("stream", (2.0, 2.0, 2.5), "WRONG_ANSWER", 8)]
    requests = Requests()
    requests.add(np.frombuffer(np.array(rows, ROW).tobytes(), ROW))
    assert [tuple(each) for each in requests.rows.tolist()] == rows
    assert requests.failures == {"WRONG_ANSWER": 1}


def test_percentiles_of_requests_are_exact() -> None:
    latencies = random.Random(2).sample(range(1, 1001), 1000)
    requests = Requests([row("single", (0.0, 0.0, ms / 1000), OK, 1) for ms in latencies])
    for percent in (0.1, 50, 99, 99.9, 100):
        assert requests.latency(percent) == pytest.approx(10 * percent)
    assert requests.histogram().percentile(99) == pytest.approx(990, rel=0.001)
    assert Requests().latency(50) is None


class Made:
    """Requests, made a second at a time; every answer comes in its second unless it takes longer."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def fill(
        self,
        span: tuple[int, int],
        per_second: int,
        latency_ms: float,
        failed: dict[str, tuple[int, float]] | None = None,
    ) -> "Made":
        """`failed` are counts and milliseconds by code."""
        for second in range(*span):
            outcomes = {OK: (per_second, latency_ms), **(failed or {})}
            for outcome, (count, ms) in outcomes.items():
                self.rows += [row("single", (second, second, second + ms / 1000), outcome, 1)] * count
        return self

    @property
    def requests(self) -> Requests:
        return Requests(self.rows)


def refused(count: int, ms: float = 2.0) -> dict[str, tuple[int, float]]:
    return {"UNAVAILABLE": (count, ms)}


def test_figures_count_what_was_answered_and_what_failed() -> None:
    found = result.figures(Made().fill((0, 10), 50, 20.0, refused(50)).requests, 0, 10)
    assert found["rate"] == found["texts_per_s"] == 50
    assert found["sent"] == 1000
    assert found["failures"] == 50
    assert found["p99"] == pytest.approx(20)
    assert result.figures(Requests(), 0, 10)["failures"] is None
    assert result.figures(Requests(), 0, 10, [99.5])["p99.5"] is None


def test_answers_that_come_after_the_span_are_no_throughput() -> None:
    assert result.figures(Made().fill((0, 10), 50, 30_000.0).requests, 0, 10)["rate"] == 0


KNEE, SECONDS = 100, 20
PARTS = shapes.parts("overload", KNEE, SECONDS)
QUEUE = Queue(100, 0.0)
FLAT = [Sample(second, memory_mib=500.0) for second in range(60)]


def overloaded(
    *, accepted_ms: float = 1200.0, refusal_ms: float = 2.0, other: int = 0, drained_after: int = 2, refusals: int = 200
) -> Requests:
    made = Made().fill((0, 10), 50, 20.0)
    failed = refused(refusals, refusal_ms) | {"DEADLINE_EXCEEDED": (other, 10_000.0)}
    made.fill((10, 30), KNEE, accepted_ms, failed)
    made.fill((30, 30 + drained_after), 50, 900.0)
    return made.fill((30 + drained_after, 50), 50, 21.0).requests


def met(requests: Requests, samples: list[Sample] = FLAT, queue: Queue | None = QUEUE) -> dict[str, bool]:
    verdicts = overload.verdicts(requests, samples, PARTS, queue, 200.0)
    names = ("alone", "refusals within", "accepted", "memory", "back to normal")
    return {name: verdict.is_met for name in names for verdict in verdicts if name in verdict.wanted}


def test_a_sane_server_passes_every_verdict_of_an_overload() -> None:
    names = ("alone", "refusals within", "accepted", "memory", "back to normal")
    assert met(overloaded()) == dict.fromkeys(names, True)


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"refusal_ms": 900.0}, "refusals within"),
        ({"refusal_ms": 20.0}, "refusals within"),  # of the median
        ({"accepted_ms": 2100.0}, "accepted"),  # twice the bound of 100 requests at 100/s is 2 s
        ({"other": 3}, "alone"),
        ({"refusals": 0}, "alone"),
        ({"drained_after": 7}, "back to normal"),
    ],
)
def test_each_verdict_of_an_overload_can_fail_alone(change: dict[str, Any], failing: str) -> None:
    found = met(overloaded(**change))
    assert [name for name, is_met in found.items() if not is_met] == [failing]


def test_memory_that_grows_and_a_queue_without_bound_are_not_met() -> None:
    growing = [Sample(second, memory_mib=500.0 + 10 * second) for second in range(60)]
    assert met(overloaded(), samples=growing)["memory"] is False
    assert met(overloaded(), queue=Queue(0, 0.0))["accepted"] is False
    assert met(overloaded(), queue=None)["accepted"] is False


def memory(second_quarter_mib: float, last_quarter_mib: float, spikes: tuple[int, ...] = ()) -> list[Sample]:
    """A minute of samples, from 100 s on; the first and the third quarter are far off and count for nothing."""
    quarters = 9000.0, second_quarter_mib, 10.0, last_quarter_mib
    return [
        Sample(100.0 + second, memory_mib=99_999.0 if second in spikes else quarters[second // 15])
        for second in range(60)
    ]


def is_flat(samples: list[Sample]) -> bool | None:
    verdict = overload.memory_verdict(samples, 100.0, 160.0)
    return None if verdict is None else verdict.is_met


@pytest.mark.parametrize(
    ("early_mib", "late_mib", "is_met"),
    [
        (500, 500, True),
        (500, 532, True),  # 32 MiB are allowed even where they are more than 5%
        (500, 533, False),
        (2000, 2100, True),
        (2000, 2101, False),
        (2000, 100, True),  # it may shrink
    ],
)
def test_memory_is_flat_if_its_last_quarter_holds_little_more_than_its_second(
    early_mib: float, late_mib: float, is_met: bool
) -> None:
    assert is_flat(memory(early_mib, late_mib)) is is_met


def test_a_short_peak_of_memory_is_no_growth() -> None:
    assert is_flat(memory(500, 500, spikes=(46, 50, 58)))


@pytest.mark.parametrize("samples", [[], [Sample(100.0 + n) for n in range(60)], memory(500, 900)[:45]])
def test_memory_that_nobody_saw_is_not_judged(samples: list[Sample]) -> None:
    assert is_flat(samples) is None


AFTER = shapes.Part("after", 10.0, 20.0, 50.0)


def recovering(*seconds: tuple[float, int]) -> Requests:
    """Ten seconds after an overload, each (latency in ms, refused); the last one given lasts."""
    made = Made().fill((0, 10), 50, 5000.0, refused(100))
    for second in range(10):
        latency_ms, count = seconds[min(second, len(seconds) - 1)]
        made.fill((10 + second, 11 + second), 50, latency_ms, refused(count))
    return made.requests


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([(20, 0)], 0),
        ([(900, 0), (900, 0), (20, 0)], 2),
        ([(20, 3), (20, 0)], 1),  # a failure is not normal, however fast the answers are
        ([(20, 0), (20, 0), (900, 0), (20, 0)], 3),  # two good seconds are not three
        ([(900, 0)] * 7 + [(20, 0)], 7),
        ([(900, 0)] * 8 + [(20, 0)], None),
        ([(900, 0)], None),
        ([(20, 1)], None),
    ],
)
def test_normal_is_three_seconds_in_a_row_without_failures_and_within_the_limit(
    seconds: list[tuple[float, int]], expected: int | None
) -> None:
    assert overload.recovery_s(recovering(*seconds), AFTER, 200.0) == expected


def test_a_server_that_answers_nothing_after_an_overload_is_not_back() -> None:
    assert overload.recovery_s(Made().fill((0, 10), 50, 20.0).requests, AFTER, 200.0) is None


@pytest.mark.parametrize(("before_ms", "is_met"), [(20.0, False), (140.0, False), (160.0, True)])
def test_normal_is_the_goal_or_twice_what_it_was_before(before_ms: float, is_met: bool) -> None:
    made = Made().fill((0, 10), 50, before_ms).fill((10, 30), KNEE, 1200.0, refused(200))
    assert met(made.fill((30, 50), 50, 300.0).requests)["back to normal"] is is_met


@pytest.mark.parametrize(("drained_after", "is_met"), [(5, True), (6, False)])
def test_normal_has_to_come_within_five_seconds(drained_after: int, is_met: bool) -> None:
    assert met(overloaded(drained_after=drained_after))["back to normal"] is is_met


def test_a_queue_is_bound_by_its_size_or_its_timeout() -> None:
    assert Queue(100, 0.0).bound_s(50) == 2.0
    assert Queue(100, 1.5).bound_s(50) == 1.5
    assert Queue(0, 1.5).bound_s(50) == 1.5


@pytest.mark.parametrize(
    ("late_ms", "shares", "goal", "is_bottleneck"),
    [(5.0, [0.3], None, False), (25.0, [0.3], None, True), (25.0, [0.3], 500.0, False), (5.0, [0.95], None, True)],
)
def test_the_generator_is_named_when_it_is_the_bottleneck(
    late_ms: float, shares: list[float], goal: float | None, is_bottleneck: bool
) -> None:
    assert bool(result.generator_problem(late_ms, shares, goal)) is is_bottleneck


Found = dict[str, Any]


def noisy(seed: int, centre: float, spread: float) -> Found:
    rng = random.Random(seed)
    made = Made()
    for second in range(60):
        pace = rng.lognormvariate(0, spread / 3)
        for _ in range(50):
            made.fill((second, second + 1), 1, centre * pace * rng.lognormvariate(0, spread))
    return {"settings": {}, "machine": {}, "knee": None, "blocks": result.blocks(made.requests, 0, 60)}


def words(before: Found, after: Found) -> dict[str, str]:
    return {change.figure: change.word for change in compare.changes(before, after)}


def test_equal_runs_differ_within_noise_and_a_slower_one_does_not() -> None:
    quick, again, slow = noisy(1, 50, 0.3), noisy(2, 50, 0.3), noisy(2, 100, 0.3)
    assert words(quick, again) == dict.fromkeys(("answers", "failures", "p50", "p90", "p99"), "within noise")
    slower = words(quick, slow)
    assert slower["p50"] == slower["p90"] == "worse"
    assert slower["answers"] == "within noise"
    assert words(slow, quick)["p50"] == "better"


def test_runs_without_answers_have_no_latencies_to_compare() -> None:
    nothing = {"settings": {}, "machine": {}, "blocks": result.blocks(Requests(), 0, 10)}
    assert words(nothing, nothing) == {"answers": "within noise"}
    assert words({**nothing, "blocks": []}, nothing) == {}


def test_knees_are_compared_within_the_resolution_of_the_search() -> None:
    def knee(rate: float) -> Found:
        return {"settings": {"rate": rate}, "machine": {}, "knee": {"rate": rate, "upper": rate * 1.05}}

    assert words(knee(100), knee(104)) == {"knee": "within noise"}
    assert words(knee(100), knee(80)) == {"knee": "worse"}
    assert compare.differences(knee(100), knee(80)) == ["rate was 100, is 80"]
