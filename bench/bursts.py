"""A few requests at the same moment, then a pause: how late is the last?

A closed loop does not see a request that waits beside an idle instance until the next one comes, since there the next
comes at once. Here it does not come before all of this burst are answered.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.contract import Caller, Target
from bench.plan import Workload

SIZES = (1, 2, 4, 8)
BURSTS = 60
"""Bursts of each size; before them as many as warm up."""
WARM = 5
PAUSES_S = (0.11, 0.13, 0.17, 0.19)
"""In turns, so that no clock of the server's is met again and again."""


def planned_s() -> float:
    """About how long it takes, seconds."""
    return len(SIZES) * (BURSTS + WARM) * (float(np.mean(PAUSES_S)) + 0.02)


def last_answers(target: Target, workload: Workload) -> list[dict[str, Any]]:
    """For each size of a burst of single texts: milliseconds from its start to its last answer."""
    return asyncio.run(_last_answers(target, itertools.cycle(workload.texts)))


async def _last_answers(target: Target, texts: Iterator[str]) -> list[dict[str, Any]]:
    rows = []
    pauses_s = itertools.cycle(PAUSES_S)
    async with target.caller() as caller:
        for size in SIZES:
            times_ms = []
            for _ in range(WARM + BURSTS):
                times_ms.append(await _burst(caller, list(itertools.islice(texts, size))))
                await asyncio.sleep(next(pauses_s))
            row = {f"p{share}": round(float(np.percentile(times_ms[WARM:], share)), 2) for share in (50, 90, 99)}
            rows.append({"requests": size, "bursts": BURSTS, "latency_ms": row})
    return rows


async def _burst(caller: Caller, texts: list[str]) -> float:
    start_s = time.perf_counter()
    await asyncio.gather(*(caller([text]) for text in texts))
    return 1000 * (time.perf_counter() - start_s)
