"""Which way should callers take to several servers? The same load by each, and what it loses when a server goes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.fleet.check import POD, sample
from bench.fleet.door import door
from bench.fleet.events import Floats, poisson
from bench.fleet.real import Fleet, latencies, sleeping_repository
from bench.fleet.ways import DIRECT, LOST, THROUGH_DOOR, Call, Connected
from rejection_server import MODEL_REPOSITORY
from rejection_server.host.options import ServeOptions

SERVERS = 2
TIMEOUT_S = 10.0
"""Deadline of a call."""
SETTLE_S = 3.0
"""Between what happens to one server and to the next."""
PAUSE_S = 0.05
"""Of a caller whose call failed."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What each way has to carry."""

    clients: int = 8
    """Programs with connections of their own, none of which knows what the others have under way."""
    calls: int = 4
    """Calls that each of them has under way at once in the closed loop."""
    seconds: float = 15.0
    """Of each measured window."""
    share: float = 0.7
    """Arrivals of the open loop, as a share of what the first way carries in the closed one."""
    rounds: int = 1
    """How often each way takes its turn."""
    sleeps: bool = True
    """Whether the classifier sleeps instead of computing, so that servers on one machine do not wait for its cores."""


@dataclass
class Found:
    """What one way showed, rounds joined."""

    rates: list[float]
    """Texts a second of the closed loop."""
    latencies_s: list[Floats]
    """Of the open loop; NaN for a failed call."""
    killed: Counter[str]
    """Calls by outcome, `answered` or the word for its failure, while a server was killed and came back."""
    restarted: Counter[str]
    """The same while each server in turn stopped in its order and came back."""

    def row(self, way: str) -> dict[str, Any]:
        """Plain figures."""
        pooled = np.concatenate(self.latencies_s)
        p50, p99 = (float(each) for each in np.nanpercentile(pooled, [50, 99]))
        return {
            "way": way, "rate": float(np.median(self.rates)), "p50_s": p50, "p99_s": p99, "texts": len(pooled),
            "failed": int(np.isnan(pooled).sum()), "killed": dict(self.killed), "restarted": dict(self.restarted),
        }  # fmt: skip


def measure(load: Load, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each way."""
    with tempfile.TemporaryDirectory(prefix="rejection-clients-") as name:
        folder = Path(name)
        # As fast as a real one, where the check of the simulation needs it twice as slow.
        pod = replace(POD, fixed_s=POD.fixed_s / 2, token_s=POD.token_s / 2)
        repository = sleeping_repository(folder, pod) if load.sleeps else MODEL_REPOSITORY
        say(f"starting {SERVERS} servers and Envoy")
        options = ServeOptions(repository=repository, cache_bytes=0, cores=None if load.sleeps else 1)
        with Fleet(options, SERVERS) as fleet, door(folder / "door", fleet.addresses) as front:
            ways = [(way, connected, fleet.addresses) for way, connected in DIRECT.items()]
            ways += [(way, connected, [front.address]) for way, connected in THROUGH_DOOR.items()]
            return asyncio.run(_in_turns(load, ways, fleet, say))


async def _in_turns(
    load: Load, ways: Sequence[tuple[str, Connected, Sequence[str]]], fleet: Fleet, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    texts, _ = sample()
    found = {way: Found([], [], Counter(), Counter()) for way, _, _ in ways}
    arrivals: list[float] = []
    for turn in range(load.rounds):
        for way, connected, addresses in ways:
            say(f"{way}, round {turn + 1} of {load.rounds}")
            one = found[way]
            async with contextlib.AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(connected(addresses, TIMEOUT_S)) for _ in range(load.clients)
                ]
                await asyncio.gather(*(call(texts[0]) for call in clients))
                callers = clients * load.calls
                begin = time.monotonic()
                told = await under_load(callers, texts, asyncio.sleep(load.seconds))
                one.rates.append(told["answered"] / (time.monotonic() - begin))
                if not arrivals:
                    arrivals = poisson(load.share * one.rates[0], load.seconds, seed=1)
                drawn = np.random.default_rng(turn).integers(0, len(texts), len(arrivals)).tolist()
                one.latencies_s.append(await latencies(clients, [texts[index] for index in drawn], arrivals))
                one.killed += await under_load(callers, texts, _kill(fleet))
                one.restarted += await under_load(callers, texts, _restart(fleet))
    return [one.row(way) for way, one in found.items()]


async def under_load(callers: Sequence[Call], texts: Sequence[str], happening: Awaitable[object]) -> Counter[str]:
    """Calls by outcome while something happens; each caller has one call under way at a time."""
    told: Counter[str] = Counter()
    ends = asyncio.Event()
    turns = itertools.cycle(texts)

    async def one(call: Call) -> None:
        while not ends.is_set():
            try:
                await call(next(turns))
            except LOST as error:
                told[_word(error)] += 1
                await asyncio.sleep(PAUSE_S)
            else:
                told["answered"] += 1

    async with asyncio.TaskGroup() as tasks:
        for call in callers:
            tasks.create_task(one(call))
        await happening
        ends.set()
    return told


async def _kill(fleet: Fleet) -> None:
    await asyncio.sleep(SETTLE_S)
    fleet.signal(0, signal.SIGKILL)
    await asyncio.sleep(SETTLE_S)
    await asyncio.to_thread(fleet.restart, 0)
    await asyncio.sleep(SETTLE_S)


async def _restart(fleet: Fleet) -> None:
    for index in range(SERVERS):
        await asyncio.sleep(SETTLE_S)
        await asyncio.to_thread(fleet.restart, index)
    await asyncio.sleep(SETTLE_S)


def _word(error: BaseException) -> str:
    """UNAVAILABLE and the like of gRPC, the class of the client's own errors."""
    code = getattr(error, "code", None)
    return code().name if code is not None else type(error).__name__


def lost(told: Mapping[str, int]) -> int:
    """How many of these calls were not answered."""
    return sum(told.values()) - told.get("answered", 0)
