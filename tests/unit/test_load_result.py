"""Histograms, figures, verdicts of an overload, and comparisons, of made-up records."""

import random

import pytest

from load import compare, result, shapes
from load.buckets import Histogram, merged
from load.record import OK, Cell, Recorder
from load.result import Queue
from load.sampling import Sample


def test_percentiles_are_within_one_percent() -> None:
    values = sorted(random.Random(1).lognormvariate(3, 1) for _ in range(5000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for percent in (50, 90, 99, 99.9):
        assert histogram.percentile(percent) == pytest.approx(values[int(len(values) * percent / 100) - 1], rel=0.02)
    assert histogram.percentile(100) == pytest.approx(values[-1], rel=0.01)
    assert Histogram().percentile(50) is None


@pytest.mark.parametrize(("percent", "value"), [(1, 10), (25, 10), (26, 20), (50, 20), (75, 40), (76, 80), (100, 80)])
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(percent, value) -> None:
    histogram = Histogram()
    for milliseconds in (80, 10, 40, 20):
        histogram.add(milliseconds)
    assert histogram.percentile(percent) == pytest.approx(value, rel=0.01)


def test_latency_counts_from_the_intended_time_and_belongs_to_its_second() -> None:
    recorder = Recorder()
    recorder.count("single", intended_s=1.5, sent_s=3.0, ended_s=3.25, outcome=OK, texts=16)
    recorder.count("single", intended_s=1.75, sent_s=3.0, ended_s=3.01, outcome="UNAVAILABLE", texts=16)
    second = recorder.total(1, 2)
    assert second.ok.percentile(50) == pytest.approx(1750, rel=0.01)
    assert second.latency["UNAVAILABLE"].percentile(50) == pytest.approx(1260, rel=0.01)
    assert second.service[OK].percentile(50) == pytest.approx(250, rel=0.01)
    assert second.late.percentile(100) == pytest.approx(1500, rel=0.01)
    # The answer makes the throughput of the second that it came in; a failure makes none.
    assert (second.answered, second.texts) == (0, 0)
    assert (recorder.total(3, 4).answered, recorder.total(3, 4).texts) == (1, 16)


def test_merging_is_counting_together() -> None:
    parts = [Histogram([(1, 2), (5, 1)]), Histogram([(1, 1)])]
    assert merged(parts).pairs() == [(1, 3), (5, 1)]


def test_a_record_survives_the_way_to_the_master() -> None:
    cell = Cell(sent=3, answered=2, texts=32)
    cell.latency_of(OK).add(12.0)
    cell.latency_of("UNAVAILABLE").add(1.5)
    cell.late.add(0.2)
    copy = Cell.from_plain(cell.to_plain())
    assert copy.to_plain() == cell.to_plain()
    assert copy.failures == {"UNAVAILABLE": 1}


def record(seconds, *, per_second=50, latency_ms=20.0, refused=0, refusal_ms=2.0, other=0):
    """`seconds` is (begin, end); every answer comes in its second."""
    recorder = Recorder()
    fill(recorder, *seconds, per_second, latency_ms, refused, refusal_ms, other)
    return recorder


def fill(recorder, begin, end, per_second, latency_ms, refused=0, refusal_ms=2.0, other=0) -> None:
    for second in range(begin, end):
        cell = recorder.cell(second, "single")
        cell.sent += per_second + refused + other
        cell.answered += per_second
        cell.texts += per_second
        for _ in range(per_second):
            cell.latency_of(OK).add(latency_ms)
        for code, count, ms in (("UNAVAILABLE", refused, refusal_ms), ("DEADLINE_EXCEEDED", other, 10_000)):
            for _ in range(count):
                cell.latency_of(code).add(ms)
                cell.service_of(code).add(ms)


def test_figures_count_what_was_answered_and_what_failed() -> None:
    found = result.figures(record((0, 10), refused=50), 0, 10)
    assert found["rate"] == 50
    assert found["sent"] == 1000
    assert found["failures"] == 50
    assert found["p99"] == pytest.approx(20, rel=0.02)
    assert result.figures(Recorder(), 0, 10)["failures"] is None


def test_answers_that_come_after_the_span_are_no_throughput() -> None:
    recorder = record((0, 10))
    for second in range(10):
        recorder.cell(second, "single").answered = 0
    recorder.cell(30, "single").answered = 500
    assert result.figures(recorder, 0, 10)["rate"] == 0


KNEE, SECONDS = 100, 20
PARTS = shapes.parts("overload", KNEE, SECONDS)
QUEUE = Queue(100, 0.0)
FLAT = [Sample(second, memory_mib=500.0) for second in range(60)]


def overload(*, accepted_ms=1200.0, refusal_ms=2.0, other=0, drained_after=2, refused=200):
    recorder = record((0, 10), latency_ms=20.0)
    fill(recorder, 10, 30, KNEE, accepted_ms, refused, refusal_ms, other)
    fill(recorder, 30, 30 + drained_after, 50, 900.0)
    fill(recorder, 30 + drained_after, 50, 50, 21.0)
    return recorder


def met(recorder, samples=FLAT, queue=QUEUE):
    verdicts = result.overload_verdicts(recorder, samples, PARTS, queue, 200.0)
    names = ("alone", "refusals within", "accepted", "memory", "back to normal")
    return {name: verdict.is_met for name in names for verdict in verdicts if name in verdict.wanted}


def test_a_sane_server_passes_every_verdict_of_an_overload() -> None:
    assert met(overload()) == dict.fromkeys(("alone", "refusals within", "accepted", "memory", "back to normal"), True)


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"refusal_ms": 900.0}, "refusals within"),
        ({"refusal_ms": 20.0}, "refusals within"),  # of the median
        ({"accepted_ms": 2100.0}, "accepted"),  # twice the bound of 100 requests at 100/s is 2 s
        ({"other": 3}, "alone"),
        ({"refused": 0}, "alone"),
        ({"drained_after": 7}, "back to normal"),
    ],
)
def test_each_verdict_of_an_overload_can_fail_alone(change, failing) -> None:
    found = met(overload(**change))
    assert [name for name, is_met in found.items() if not is_met] == [failing]


def test_memory_that_grows_and_a_queue_without_bound_are_not_met() -> None:
    growing = [Sample(second, memory_mib=500.0 + 10 * second) for second in range(60)]
    assert met(overload(), samples=growing)["memory"] is False
    assert met(overload(), queue=Queue(0, 0.0))["accepted"] is False
    assert met(overload(), queue=None)["accepted"] is False


def memory(second_quarter_mib, last_quarter_mib, spikes=()):
    """A minute of samples, from 100 s on; the first and the third quarter are far off and count for nothing."""
    quarters = 9000.0, second_quarter_mib, 10.0, last_quarter_mib
    return [
        Sample(100.0 + second, memory_mib=99_999.0 if second in spikes else quarters[second // 15])
        for second in range(60)
    ]


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
def test_memory_is_flat_if_its_last_quarter_holds_little_more_than_its_second(early_mib, late_mib, is_met) -> None:
    assert result.memory_verdict(memory(early_mib, late_mib), 100.0, 160.0).is_met is is_met


def test_a_short_peak_of_memory_is_no_growth() -> None:
    assert result.memory_verdict(memory(500, 500, spikes=(46, 50, 58)), 100.0, 160.0).is_met


@pytest.mark.parametrize("samples", [[], [Sample(100.0 + n) for n in range(60)], memory(500, 900)[:45]])
def test_memory_that_nobody_saw_is_not_judged(samples) -> None:
    assert result.memory_verdict(samples, 100.0, 160.0) is None


AFTER = shapes.Part("after", 10.0, 20.0, 50.0)


def recovering(*seconds):
    """Ten seconds after an overload, each (latency in ms, refused); the last one given lasts."""
    recorder = record((0, 10), latency_ms=5000.0, refused=100)
    for second in range(10):
        latency_ms, refused = seconds[min(second, len(seconds) - 1)]
        fill(recorder, 10 + second, 11 + second, 50, latency_ms, refused)
    return recorder


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
def test_normal_is_three_seconds_in_a_row_without_failures_and_within_the_limit(seconds, expected) -> None:
    assert result.recovery_s(recovering(*seconds), AFTER, 200.0) == expected


def test_a_server_that_answers_nothing_after_an_overload_is_not_back() -> None:
    assert result.recovery_s(record((0, 10)), AFTER, 200.0) is None


@pytest.mark.parametrize(("before_ms", "is_met"), [(20.0, False), (140.0, False), (160.0, True)])
def test_normal_is_the_goal_or_twice_what_it_was_before(before_ms, is_met) -> None:
    recorder = record((0, 10), latency_ms=before_ms)
    fill(recorder, 10, 30, KNEE, 1200.0, 200)
    fill(recorder, 30, 50, 50, 300.0)
    assert met(recorder)["back to normal"] is is_met


@pytest.mark.parametrize(("drained_after", "is_met"), [(5, True), (6, False)])
def test_normal_has_to_come_within_five_seconds(drained_after, is_met) -> None:
    assert met(overload(drained_after=drained_after))["back to normal"] is is_met


def test_a_queue_is_bound_by_its_size_or_its_timeout() -> None:
    assert Queue(100, 0.0).bound_s(50) == 2.0
    assert Queue(100, 1.5).bound_s(50) == 1.5
    assert Queue(0, 1.5).bound_s(50) == 1.5


@pytest.mark.parametrize(
    ("late_ms", "shares", "goal", "is_bottleneck"),
    [(5.0, [0.3], None, False), (25.0, [0.3], None, True), (25.0, [0.3], 500.0, False), (5.0, [0.95], None, True)],
)
def test_the_generator_is_named_when_it_is_the_bottleneck(late_ms, shares, goal, is_bottleneck) -> None:
    assert bool(result.generator_problem(late_ms, shares, goal)) is is_bottleneck


def noisy(seed, centre, spread):
    rng = random.Random(seed)
    recorder = Recorder()
    for second in range(60):
        pace = rng.lognormvariate(0, spread / 3)
        for _ in range(50):
            fill(recorder, second, second + 1, 1, centre * pace * rng.lognormvariate(0, spread))
    return {
        "settings": {},
        "machine": {},
        "knee": None,
        "blocks": result.blocks(recorder, 0, 60),
    }


def words(before, after):
    return {change.figure: change.word for change in compare.changes(before, after)}


def test_equal_runs_differ_within_noise_and_a_slower_one_does_not() -> None:
    assert set(words(noisy(1, 50, 0.3), noisy(2, 50, 0.3)).values()) == {"within noise"}
    slower = words(noisy(1, 50, 0.3), noisy(2, 100, 0.3))
    assert slower["p50"] == slower["p90"] == "worse"
    assert slower["answers"] == "within noise"
    assert words(noisy(1, 100, 0.3), noisy(2, 50, 0.3))["p50"] == "better"


def test_knees_are_compared_within_the_resolution_of_the_search() -> None:
    def knee(rate):
        return {"settings": {"rate": rate}, "machine": {}, "knee": {"rate": rate, "upper": rate * 1.05}}

    assert words(knee(100), knee(104)) == {"knee": "within noise"}
    assert words(knee(100), knee(80)) == {"knee": "worse"}
    assert compare.differences(knee(100), knee(80)) == ["rate was 100, is 80"]
