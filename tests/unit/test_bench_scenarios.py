"""The scenarios: how their rounds and their bursts are counted. What they say of a real server: test_bench.py."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench import scenarios
from bench.callers import joined
from bench.cli import main
from bench.contract import Caller, Target


class Slow:
    """The last request of a burst is answered late; counts what is under way together."""

    def __init__(self) -> None:
        self.under_way = 0
        self.together: list[int] = []

    @contextlib.asynccontextmanager
    async def caller(self) -> AsyncIterator[Caller]:
        yield self

    async def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        assert len(texts) == 1
        self.under_way += 1
        mine = self.under_way
        await asyncio.sleep(0)
        self.together.append(self.under_way)
        if mine == 4:
            await asyncio.sleep(0.05)
        self.under_way -= 1
        return np.zeros((1, 2), np.float32)


def test_the_time_of_a_burst_is_that_of_its_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenarios, "BURST_SIZES", (1, 4))
    monkeypatch.setattr(scenarios, "BURSTS", 3)
    monkeypatch.setattr(scenarios, "PAUSES_S", (0.001,))
    slow = Slow()
    one, four = asyncio.run(scenarios.last_answers(Target("slow", (), slow.caller), ["text"]))
    assert (one["requests"], four["requests"], four["bursts"]) == (1, 4, 3)
    assert max(slow.together) == 4
    assert four["latency_ms"]["p50"] >= 50
    assert four["latency_ms"]["p50"] > one["latency_ms"]["p50"]


def row(caller: str, rate: float, p50: float, failed: int = 0) -> dict[str, Any]:
    load = {"caller": caller, "workload": "short", "concurrency": 1}
    return {**load, "texts_per_s": rate, "latency_ms": {"p50": p50, "p99": p50 + 2}, "failed": failed}


def test_rounds_become_medians_and_failures_add_up() -> None:
    rows = [
        *(row("Python", 100.0, 5.0), row("C++", 300.0, 2.0)),
        *(row("Python", 120.0, 9.0, failed=1), row("C++", 500.0, 1.0)),
        *(row("Python", 90.0, 7.0, failed=2), row("C++", 400.0, 3.0)),
    ]
    python, cpp = joined(rows)
    assert (python["caller"], python["texts_per_s"]["median"], python["failed"]) == ("Python", 100.0, 3)
    assert [python["latency_ms"][share]["median"] for share in ("p50", "p99")] == [7.0, 9.0]
    assert (cpp["caller"], cpp["texts_per_s"]["median"], cpp["failed"]) == ("C++", 400.0, 0)


def test_a_missing_generator_is_named_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.cli.LOADGEN", Path("/nowhere/loadgen"))
    assert main(["--scenarios", "bursts,callers", "--models", "bundled"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("scripts/bench: the scenario callers needs the load generator in C++, which is not")
    assert captured.err.endswith("run scripts/build-loadgen\n")
    assert captured.err.count("\n") == 1
