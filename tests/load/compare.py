"""The change against an earlier run, beside how much each run varies within itself.

Noise is the standard error of a figure under a block bootstrap: each run is cut into spans, spans are drawn with
replacement, the figure is computed of what was drawn, and its spread over many draws is the error (Carlstein: "The use
of subseries values for estimating the variance of a general statistic", Annals of Statistics 14, 1986). Spans keep
neighbouring seconds together, whose latencies depend on each other. It cannot see what differs from run to run, such as
another program on the machine: for that, run twice and compare the two.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from load.buckets import GROWTH, Histogram, merged

DRAWS = 200
SIGNIFICANT = 1.96
"""Standard errors beyond which a change is more than noise, at 95% confidence."""
SETTINGS = ("shape", "rate", "users", "texts", "repeat", "spacing", "duration_s")

_Blocks = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Change:
    """One figure, then and now."""

    figure: str
    unit: str
    before: float
    after: float
    noise: float
    """Half-width of the 95% interval of the difference, in the figure's unit."""
    less_is_better: bool = True

    @property
    def percent(self) -> float | None:
        """Change in percent of what it was."""
        return 100 * (self.after - self.before) / self.before if self.before else None

    @property
    def word(self) -> str:
        """better, worse or within noise."""
        if abs(self.after - self.before) <= self.noise:
            return "within noise"
        return "better" if (self.after < self.before) == self.less_is_better else "worse"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Compare two results as `result.json` holds them; only figures that both have."""
    found = []
    knees = [result.get("knee") or {} for result in (before, after)]
    rates = [knee["rate"] for knee in knees if knee.get("rate")]
    if len(rates) == len(knees):
        # The search stops within its resolution: neither rate is known any better.
        steps = [(knee.get("upper") or knee["rate"]) - knee["rate"] for knee in knees]
        found.append(Change("knee", "/s", rates[0], rates[1], math.hypot(*steps), less_is_better=False))
    pieces = before.get("blocks") or [], after.get("blocks") or []
    if not all(pieces):
        return found
    for figure, unit, less_is_better, compute in _FIGURES:
        values = [value for blocks in pieces if (value := compute(blocks)) is not None]
        if len(values) == len(pieces):
            errors = [SIGNIFICANT * _standard_error(blocks, compute) for blocks in pieces]
            if unit == "ms":  # no finer than a bucket
                errors.append((GROWTH - 1) * max(values))
            noise = math.hypot(*errors)
            found.append(Change(figure, unit, values[0], values[1], noise, less_is_better))
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What was set differently in the two runs: a comparison of them says less."""
    then, now = before["settings"], after["settings"]
    told = [f"{name} was {then.get(name)}, is {now.get(name)}" for name in SETTINGS if then.get(name) != now.get(name)]
    if before.get("machine") != after.get("machine"):
        told.append("the machine or its software was another")
    return told


def _rate(blocks: _Blocks) -> float | None:
    return float(sum(block["answered"] for block in blocks) / sum(block["seconds"] for block in blocks))


def _failures(blocks: _Blocks) -> float | None:
    failed: int = sum(block["failed"] for block in blocks)
    finished = failed + sum(count for block in blocks for _, count in block["latency"])
    return 100 * failed / finished if finished else None


def _percentile(percent: float) -> Callable[[_Blocks], float | None]:
    return lambda blocks: merged(Histogram(block["latency"]) for block in blocks).percentile(percent)


_FIGURES: tuple[tuple[str, str, bool, Callable[[_Blocks], float | None]], ...] = (
    ("answers", "/s", False, _rate),
    ("failures", "%", True, _failures),
    ("p50", "ms", True, _percentile(50)),
    ("p90", "ms", True, _percentile(90)),
    ("p99", "ms", True, _percentile(99)),
)


def _standard_error(blocks: _Blocks, compute: Callable[[_Blocks], float | None]) -> float:
    rng = random.Random(1)
    values = [value for _ in range(DRAWS) if (value := compute(rng.choices(blocks, k=len(blocks)))) is not None]
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
