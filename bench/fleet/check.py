"""Is the simulation right? The same arrivals through a few real servers behind Envoy, and through the simulation."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from bench.fleet.door import door
from bench.fleet.events import Floats, Pod, poisson, simulate
from bench.fleet.real import Fleet, latencies, sleeping_repository
from bench.fleet.ways import bare
from bench.settings import ROOT
from rejection_server import MODEL_REPOSITORY
from rejection_server.host.options import ServeOptions

POD = Pod(instances=2, fixed_s=0.04, token_s=0.0008)
"""Twice as slow as a real one, so that what the processor of this machine has to do on the way counts for little."""
TEXTS = ROOT / "tests" / "load" / "data" / "mixed.jsonl"
PROBES = 15
CALL_TIMEOUT_S = 120.0
SHARES = (0.5, 0.8, 0.9)


@dataclass(frozen=True)
class Compared:
    """A load on some servers, measured and simulated; latencies in seconds."""

    servers: int
    share: float
    """Of their capacity."""
    texts: int
    failed: int
    real_mean_s: float
    real_p50_s: float
    real_p99_s: float
    simulated_mean_s: float
    simulated_p50_s: float
    simulated_p99_s: float
    door_cpu_ms: float
    """Processor time of Envoy for each text."""

    @property
    def off(self) -> float:
        """How far the simulated mean is from the measured one, as a share of it."""
        return self.simulated_mean_s / self.real_mean_s - 1


def check(counts: Sequence[int], seconds: float, say: Callable[[str], None]) -> list[Compared]:
    """Compare fleets of so many servers, each load for `seconds`."""
    texts, tokens = sample()
    found = []
    with tempfile.TemporaryDirectory(prefix="rejection-fleet-") as name:
        folder = Path(name)
        repository = sleeping_repository(folder, POD)
        for count in counts:
            say(f"starting {count} servers and Envoy")
            options = ServeOptions(repository=repository, cache_bytes=0)
            with Fleet(options, count) as fleet, door(folder, fleet.addresses) as front:
                alone = _latencies(front.address, texts[:PROBES], [0.7 * index for index in range(PROBES)])
                service_s = np.array([POD.fixed_s + POD.token_s * tokens[index] for index in range(PROBES)])
                pod = replace(POD, way_s=float(np.median(alone - service_s)))
                for share in SHARES:
                    say(f"{count} servers at {share:.0%}")
                    rate = share * count * pod.rate(float(np.mean(tokens)))
                    arrivals = poisson(rate, seconds, seed=count)
                    drawn = np.random.default_rng(count).integers(0, len(texts), len(arrivals)).tolist()
                    begin = front.cpu_s()
                    real = _latencies(front.address, [texts[index] for index in drawn], arrivals)
                    cpu_s = front.cpu_s() - begin
                    simulated = simulate(arrivals, [tokens[index] for index in drawn], servers=count, pod=pod)
                    found.append(_compared(count, share, real, simulated.latencies_s, cpu_s))
    return found


def sample(tokens: float | None = None) -> tuple[list[str], list[int]]:
    """Texts of mixed lengths and how many tokens the bundled tokenizer makes of each, 512 at most.

    With `tokens` the numbers are stretched to that mean, as if texts were longer.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL_REPOSITORY / "tokenizer" / "1" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    texts = [json.loads(line)["text"] for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    counts = np.array([len(encoding.ids) for encoding in tokenizer.encode_batch(texts)])
    if tokens is not None:
        for _ in range(10):  # what is cut at 512 is missing from the mean
            counts = np.clip(counts * tokens / counts.mean(), 4, 512)
    return texts, counts.round().astype(int).tolist()


def _latencies(address: str, texts: Sequence[str], arrivals_s: Sequence[float]) -> Floats:
    async def send() -> Floats:
        async with bare()([address], CALL_TIMEOUT_S) as call:
            return await latencies([call], texts, arrivals_s)

    return asyncio.run(send())


def _compared(count: int, share: float, real: Floats, simulated: Floats, cpu_s: float) -> Compared:
    figures = {}
    for kind, each in (("real", real), ("simulated", simulated)):
        figures[f"{kind}_mean_s"] = float(np.nanmean(each))
        figures[f"{kind}_p50_s"], figures[f"{kind}_p99_s"] = (float(each) for each in np.nanpercentile(each, [50, 99]))
    failed = int(np.isnan(real).sum())
    return Compared(count, share, len(real), failed, **figures, door_cpu_ms=1000 * cpu_s / len(real))


def as_json(found: Sequence[Compared]) -> list[dict[str, float]]:
    """Plain figures."""
    return [asdict(one) for one in found]
