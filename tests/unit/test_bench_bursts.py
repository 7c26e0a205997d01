"""Bursts: all requests of one are under way together, and its time is that of the last answer."""

import asyncio
import contextlib

import pytest

from bench import bursts
from bench.contract import Target
from bench.plan import workload


class Slow:
    """The last request of a burst is answered late; counts what is under way together."""

    def __init__(self) -> None:
        self.under_way = 0
        self.together = []

    @contextlib.asynccontextmanager
    async def caller(self):
        yield self

    async def __call__(self, texts):
        assert len(texts) == 1
        self.under_way += 1
        mine = self.under_way
        await asyncio.sleep(0)
        self.together.append(self.under_way)
        if mine == 4:
            await asyncio.sleep(0.05)
        self.under_way -= 1


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(bursts, "SIZES", (1, 4))
    monkeypatch.setattr(bursts, "BURSTS", 3)
    monkeypatch.setattr(bursts, "PAUSES_S", (0.001,))


@pytest.mark.usefixtures("quick")
def test_the_time_of_a_burst_is_that_of_its_last_answer() -> None:
    slow = Slow()
    one, four = bursts.last_answers(Target("slow", (), slow.caller), workload("short"))
    assert (one["requests"], four["requests"], four["bursts"]) == (1, 4, 3)
    assert max(slow.together) == 4
    assert four["latency_ms"]["p50"] >= 50
    assert four["latency_ms"]["p50"] > one["latency_ms"]["p99"]
