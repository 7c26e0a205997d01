"""Every text's way through a door and its servers, event by event."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pod:
    """What one server does in which time."""

    instances: int
    """Classifier instances, each running a batch at a time."""
    batch: int = 8
    """Most texts of a batch (`preferred_batch_size`); an idle instance takes what waits at once."""
    fixed_s: float
    """Seconds of an execution, whatever it holds."""
    token_s: float
    """Seconds of a token on top."""
    way_s: float = 0.0
    """Seconds of a text beside queue and execution: door, guard, tokenizer, network."""
    bound: int = 512
    """Texts under way at most; the next one is refused."""

    def rate(self, tokens: float) -> float:
        """Texts a second of a pod that is never idle, with so many tokens a text on average."""
        return self.instances * self.batch / (self.fixed_s + self.batch * tokens * self.token_s)


@dataclass(frozen=True)
class Outcome:
    """What became of the texts."""

    latencies_s: Floats
    """Seconds from arrival to answer, in order of arrival; NaN for a refused text."""
    waiting: float
    """Mean number of texts waiting for an instance, over all servers."""
    executions: int

    @property
    def refused(self) -> int:
        """Texts that found every place taken."""
        return int(np.isnan(self.latencies_s).sum())

    def percentile(self, share: float) -> float:
        """Latency in seconds that `share` per cent of the answered texts stay below."""
        return float(np.nanpercentile(self.latencies_s, share))


@dataclass
class _Server:
    pod: Pod
    idle: int
    queue: deque[int] = field(default_factory=deque)
    active: int = 0


def simulate(arrivals_s: Sequence[float], tokens: Sequence[int], *, servers: int, pod: Pod, seed: int = 0) -> Outcome:
    """Texts arriving at these seconds, each of so many tokens, at `servers` equal servers behind a door.

    The door gives a text to the less busy of two servers chosen by chance, as Envoy's least request does.
    """
    chance = random.Random(seed)
    fleet = [_Server(pod, pod.instances) for _ in range(servers)]
    latencies = np.full(len(arrivals_s), np.nan)
    ends: list[tuple[float, int, int, list[int]]] = []
    waiting, now, waited, executions = 0, 0.0, 0.0, 0

    def start(server: int, at: float) -> None:
        nonlocal waiting, executions
        one = fleet[server]
        while one.idle and one.queue:
            batch = [one.queue.popleft() for _ in range(min(pod.batch, len(one.queue)))]
            waiting -= len(batch)
            one.idle -= 1
            executions += 1
            took = pod.fixed_s + pod.token_s * sum(tokens[text] for text in batch)
            heapq.heappush(ends, (at + took, executions, server, batch))

    def finish() -> None:
        nonlocal now, waited
        at, _, server, batch = heapq.heappop(ends)
        waited, now = waited + waiting * (at - now), at
        one = fleet[server]
        one.idle += 1
        one.active -= len(batch)
        for text in batch:
            latencies[text] = at - arrivals_s[text] + pod.way_s
        start(server, at)

    for text, at in enumerate(arrivals_s):
        while ends and ends[0][0] <= at:
            finish()
        waited, now = waited + waiting * (at - now), at
        first, second = chance.randrange(servers), chance.randrange(servers)
        server = first if fleet[first].active <= fleet[second].active else second
        one = fleet[server]
        if one.active >= pod.bound:
            continue
        one.active += 1
        one.queue.append(text)
        waiting += 1
        start(server, at)
    while ends:
        finish()
    span = now - arrivals_s[0] if len(arrivals_s) else 1.0
    return Outcome(latencies, waited / max(span, 1e-9), executions)


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Seconds of arrivals that know nothing of each other, `rate` a second on average."""
    generator = np.random.default_rng(seed)
    gaps = generator.exponential(1 / rate, int(rate * seconds * 1.2) + 50)
    times = np.cumsum(gaps)
    return [float(at) for at in times[times < seconds]]


@dataclass(frozen=True)
class Steady:
    """What a server shows at each share of its capacity, once it has settled."""

    shares: Floats
    """Shares of capacity, rising, below 1."""
    waiting: Floats
    """Texts waiting for each server."""
    mean_s: Floats
    p99_s: Floats

    @classmethod
    def of(cls, pod: Pod, tokens: Sequence[int], *, servers: int = 8, texts: int = 20_000, seed: int = 1) -> Steady:
        """Simulate some servers at rising shares of their capacity, with texts of these lengths drawn anew."""
        shares = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97])
        drawn = np.random.default_rng(seed).choice(np.asarray(tokens), texts).tolist()
        found = []
        for share in shares:
            rate = float(share) * servers * pod.rate(float(np.mean(tokens)))
            arrivals = poisson(rate, texts / rate, seed)[:texts]
            outcome = simulate(arrivals, drawn, servers=servers, pod=pod, seed=seed)
            settled = outcome.latencies_s[len(arrivals) // 10 :]
            found.append((outcome.waiting / servers, np.nanmean(settled), np.nanpercentile(settled, 99)))
        waiting, mean, p99 = (np.array(column) for column in zip(*found, strict=True))
        return cls(shares, waiting, mean, p99)

    def at(self, share: float) -> tuple[float, float, float]:
        """Texts waiting for a server, mean and p99 latency in seconds, at a share of capacity (beyond 0.97: there)."""
        return (
            float(np.interp(share, self.shares, self.waiting)),
            float(np.interp(share, self.shares, self.mean_s)),
            float(np.interp(share, self.shares, self.p99_s)),
        )
