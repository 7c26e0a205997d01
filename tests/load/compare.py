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
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from load.histogram import Histogram, merged

DRAWS = 200
SIGNIFICANT = 1.96
"""Standard errors beyond which a change is more than noise, at 95% confidence."""
UNITS = {"answers": "/s", "failures": "%", "p50": "ms", "p90": "ms", "p99": "ms"}
"""Of what is compared; of a rate more is better, of all else less."""
SETTINGS = ("shape", "rate", "model", "users", "texts", "repeat", "spacing", "duration_s")


@dataclass(frozen=True)
class Change:
    """One figure, then and now."""

    figure: str
    unit: str
    before: float
    after: float
    noise: float
    """Half-width of the 95% interval of the difference, in the figure's unit."""

    @property
    def percent(self) -> float | None:
        """Change in percent of what it was."""
        return 100 * (self.after - self.before) / self.before if self.before else None

    @property
    def word(self) -> str:
        """better, worse or within noise."""
        if abs(self.after - self.before) <= self.noise:
            return "within noise"
        return "better" if (self.after > self.before) == (self.unit == "/s") else "worse"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Compare two results as `result.json` holds them; only figures that both have."""
    found = []
    knees = [result.get("knee") or {} for result in (before, after)]
    rates = [knee["rate"] for knee in knees if knee.get("rate")]
    if len(rates) == len(knees):
        # The search stops within its resolution: neither rate is known any better.
        steps = [(knee.get("upper") or knee["rate"]) - knee["rate"] for knee in knees]
        found.append(Change("knee", "/s", rates[0], rates[1], math.hypot(*steps)))
    (then, then_errors), (now, now_errors) = (_measured(result.get("blocks") or []) for result in (before, after))
    for figure, unit in UNITS.items():
        if figure in then and figure in now:
            noise = SIGNIFICANT * math.hypot(then_errors[figure], now_errors[figure])
            found.append(Change(figure, unit, then[figure], now[figure], noise))
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What was set differently in the two runs: a comparison of them says less."""
    then, now = before["settings"], after["settings"]
    told = [f"{name} was {then.get(name)}, is {now.get(name)}" for name in SETTINGS if then.get(name) != now.get(name)]
    if before.get("machine") != after.get("machine"):
        told.append("the machine or its software was another")
    return told


def _measured(written: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of a run, and the standard error of each."""
    blocks = [{**block, "latency": Histogram.from_text(block["latency"])} for block in written]
    if not blocks:
        return {}, {}
    rng, figures = random.Random(1), _figures(blocks)
    draws = [_figures(rng.choices(blocks, k=len(blocks))) for _ in range(DRAWS)]
    # A draw may hold no answers, and then has no percentiles.
    values = {name: [draw[name] for draw in draws if name in draw] for name in figures}
    return figures, {name: statistics.stdev(drawn) if len(drawn) > 1 else 0.0 for name, drawn in values.items()}


def _figures(blocks: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    latency = merged(block["latency"] for block in blocks)
    failed = sum(block["failed"] for block in blocks)
    found = {"answers": sum(block["answered"] for block in blocks) / sum(block["seconds"] for block in blocks)}
    if failed + latency.total:
        found["failures"] = 100 * failed / (failed + latency.total)
    for percent in (50, 90, 99):
        if (value := latency.percentile(percent)) is not None:
            found[f"p{percent}"] = value
    return found
