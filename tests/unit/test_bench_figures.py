"""Figures out of recorded times, by hand-made examples whose answers are known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.figures import Recorded, arrivals, completed_per_s, difference, latency_ms, merged, spread_ms, texts_per_s


def recorded(*requests: tuple[float, float], texts: int = 1, window: tuple[float, float]) -> Recorded:
    due, done = (np.asarray(column, float) for column in zip(*requests, strict=True))
    return Recorded(due, done, np.full(len(requests), texts, np.int64), *window)


def test_arrivals_are_evenly_spaced_from_zero() -> None:
    assert arrivals(4, 1).tolist() == [0, 0.25, 0.5, 0.75]
    assert arrivals(10, 0.3).tolist() == pytest.approx([0, 0.1, 0.2])
    assert len(arrivals(0.5, 1)) == 1


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0), (-1, 1)])
def test_arrivals_need_a_rate_and_a_time(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        arrivals(rate, seconds)


def test_latency_counts_from_when_a_request_was_due() -> None:
    figures = latency_ms(recorded((0, 0.1), (1, 1.3), (2, 2.2), window=(0, 10)), by_due=True)
    assert figures["p50"] == pytest.approx(200)
    assert figures["max"] == pytest.approx(300)
    assert figures["mean"] == pytest.approx(200)


def test_an_open_loop_counts_what_was_due_and_a_closed_one_what_was_answered() -> None:
    requests = recorded((0, 9), (10, 10.1), (11, 30), window=(5, 20))
    assert latency_ms(requests, by_due=True)["max"] == pytest.approx(19_000)
    assert latency_ms(requests, by_due=False)["max"] == pytest.approx(9_000)
    assert latency_ms(replace(requests, due=np.array([]), done=np.array([])), by_due=True) == {}


def test_a_slow_request_counts_by_the_part_within_the_window() -> None:
    assert texts_per_s(recorded((0, 4), texts=32, window=(1, 3))) == pytest.approx(8)
    assert texts_per_s(recorded((0, 1), (1, 2), (2, 3), window=(0, 2))) == pytest.approx(1)
    assert texts_per_s(recorded((5, 6), window=(0, 2))) == 0


def test_an_open_loop_delivers_what_it_completes() -> None:
    assert completed_per_s(recorded((0, 1), (0, 1.5), (0, 5), window=(0, 2))) == pytest.approx(1)


def test_difference_leaves_out_what_is_unknown() -> None:
    answers = np.asarray([[0.1, 0.9], [0.5, 0.5], [np.nan, np.nan]])
    reference = np.asarray([[0.2, 0.8], [np.nan, np.nan], [0.5, 0.5]])
    assert difference(answers, reference) == {"texts": 1, "max": pytest.approx(0.1), "mean": pytest.approx(0.1)}
    assert difference(answers[2:], reference[2:]) == {"texts": 0}


def test_rounds_of_a_point_become_one() -> None:
    same: dict[str, Any] = {"failed": None, "layout": "x"}
    rows: list[dict[str, Any]] = [
        {"system": "a", "round": 1, "rate": 10.0, "latency": {"p50": 1.0}, **same},
        {"system": "b", "round": 1, "rate": 5.0, "latency": {"p50": 2.0}, **same},
        {"system": "a", "round": 2, "rate": 14.0, "latency": {"p50": 3.0}, **same},
        {"system": "a", "round": 3, "rate": 11.0, "latency": {"p50": 8.0}, **same},
    ]
    first, second = merged(rows, ("system",))
    assert (first["system"], first["rounds"], first["layout"]) == ("a", 3, "x")
    assert first["rate"] == {"median": 11.0, "min": 10.0, "max": 14.0}
    assert first["latency"]["p50"]["median"] == 3.0
    assert (second["rounds"], second["rate"]["median"]) == (1, 5.0)


def test_percentiles() -> None:
    assert spread_ms([3, 1, 2]) == {"p50": 2.0, "p90": 2.8, "p95": 2.9, "p99": 2.98, "mean": 2.0, "max": 3.0}
