"""The loops that send load, against callers that answer as they are told; counts, never times."""

import asyncio
import time
from collections.abc import Sequence
from typing import Never

import numpy as np
from numpy.typing import NDArray

from bench.contract import Caller
from bench.load import LEAST_REQUESTS, Load, Result, run
from bench.triton import per_request_ms

TEXTS = tuple(f"text {number}" for number in range(5))
REFERENCE = np.asarray([[0.25, 0.75]] * 5)


Floats = NDArray[np.float32]


def go(call: Caller, load: Load) -> Result:
    marks: list[str] = []

    async def mark(name: str) -> None:
        marks.append(name)

    result = asyncio.run(run(call, load, REFERENCE, mark))
    assert marks == ["begin", "end"]
    return result


def test_a_closed_loop_keeps_so_many_callers_and_no_more() -> None:
    active = most = 0

    async def call(texts: Sequence[str]) -> Floats:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.005)
        active -= 1
        return np.tile(np.array([0.25, 0.75], np.float32), (len(texts), 1))

    result = go(call, Load(TEXTS, batch=1, seconds=0.1, warm_s=0.02, concurrency=4))
    assert most == 4
    assert result.recorded.failed == 0
    assert result.recorded.inside().sum() >= LEAST_REQUESTS


def test_texts_are_sent_in_order_and_again_from_the_first() -> None:
    sent: list[list[str]] = []

    async def call(texts: Sequence[str]) -> Floats:
        sent.append(list(texts))
        await asyncio.sleep(0.001)
        return np.zeros((len(texts), 2), np.float32)

    go(call, Load(TEXTS, batch=2, seconds=0.05, warm_s=0.01, concurrency=1))
    assert sent[:3] == [["text 0", "text 1"], ["text 2", "text 3"], ["text 4", "text 0"]]


def test_an_open_loop_sends_all_that_is_due_though_nothing_is_answered() -> None:
    sent = 0

    async def call(_texts: Sequence[str]) -> Floats:
        nonlocal sent
        sent += 1
        await asyncio.sleep(60)
        raise AssertionError("it is cancelled before")

    result = go(call, Load(TEXTS, batch=1, seconds=0.4, warm_s=0.1, rate=100, drain_s=0.05))
    assert sent == 50
    assert result.recorded.failed == 50
    assert result.recorded.error == "no answer within 0.05 s after the window"


def test_a_late_answer_is_late_from_when_it_was_due() -> None:
    async def call(_texts: Sequence[str]) -> Floats:
        # A caller that blocks the loop: the next requests are sent late, through no merit of the system.
        time.sleep(0.02)
        return np.zeros((1, 2), np.float32)

    result = go(call, Load(TEXTS, batch=1, seconds=0.2, warm_s=0.01, rate=100))
    assert len(result.recorded.due) == 21
    gaps = np.diff(np.sort(result.recorded.due))
    assert np.allclose(gaps, 0.01)
    assert result.late_p99_ms > 0


def test_failures_are_counted_with_the_first_one_s_words() -> None:
    count = 0

    async def call(_texts: Sequence[str]) -> Never:
        nonlocal count
        count += 1
        raise ValueError(f"refused {count}")

    result = go(call, Load(TEXTS, batch=1, seconds=0.05, warm_s=0, concurrency=2))
    assert result.recorded.failed == count > 0
    assert result.recorded.error == "ValueError: refused 1"
    assert len(result.recorded.due) == 0


def test_the_answer_furthest_from_the_reference_is_kept() -> None:
    answers = iter([[0.25, 0.75], [0.4, 0.6], [0.3, 0.7]])

    async def call(_texts: Sequence[str]) -> Floats:
        await asyncio.sleep(0.002)
        return np.array([next(answers, [0.25, 0.75])], np.float32)

    result = go(call, Load(TEXTS[:1], batch=1, seconds=0.05, warm_s=0, concurrency=1))
    assert result.answers[0].tolist() == np.array([0.4, 0.6], np.float32).tolist()


def counts(requests: int, total_ns: int, **batches: int) -> dict[str, int]:
    names = ("texts", "executions", "cache_hits", "queue", "input", "infer", "output")
    sizes = {name.replace("_", " "): count for name, count in batches.items()}
    return {**dict.fromkeys(names, 0), "requests": requests, "total": total_ns, **sizes}


def test_statistics_of_a_window_are_the_difference() -> None:
    window = per_request_ms(
        {"classifier": counts(10, 10_000_000, batch_1=10)},
        {"classifier": counts(14, 18_000_000, batch_1=10, batch_4=1), "tokenizer": counts(0, 0)},
    )
    assert window["classifier"]["batches"] == {"4": 1}
    assert window["classifier"]["total"] == 2.0
    assert window["classifier"]["requests"] == 4
    assert "tokenizer" not in window
