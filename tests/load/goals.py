"""Goals a person sets, such as `p99=200ms`, and whether a run met them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from load.tables import ms

_GOAL = re.compile(r"(?P<metric>[a-z]+[\d.]*)=(?P<number>\d+(?:\.\d+)?)(?P<unit>[a-z%/]*)")
_PERCENTILE = re.compile(r"p(?P<percent>\d{1,2}(\.\d+)?)")
_UNITS = {"failures": ("%",), "rate": ("", "/s"), "answers": ("",)}
HELP = "pNN=TIME (p99=200ms, p50=0.05s), failures=SHARE% (failures=0.1%), rate=N (answers/s), answers=N"


@dataclass(frozen=True)
class Goal:
    """A limit of one figure."""

    metric: str
    """p50, p99, p99.9, ...: latency; failures: percent of the requests; rate: good answers per second; answers."""
    limit: float
    """Milliseconds, percent, answers per second, answers."""

    @property
    def is_floor(self) -> bool:
        """Whether more is better."""
        return self.metric in ("rate", "answers")

    @property
    def percent(self) -> float | None:
        """Of a latency goal: which percentile."""
        found = _PERCENTILE.fullmatch(self.metric)
        return float(found["percent"]) if found else None

    def __str__(self) -> str:
        """As a person reads it."""
        return f"{self.metric} {'at least' if self.is_floor else 'at most'} {_shown(self.metric, self.limit)}"


@dataclass(frozen=True)
class Verdict:
    """One judged figure."""

    wanted: str
    measured: str
    is_met: bool


def parse(text: str) -> Goal:
    """Read one goal; raises ValueError with a sentence for anything else."""
    found = _GOAL.fullmatch(text.replace(" ", ""))
    if not found:
        raise ValueError(f"'{text}' is not a goal; give {HELP}")
    metric, number, unit = found["metric"], float(found["number"]), found["unit"]
    if _PERCENTILE.fullmatch(metric) and unit not in ("ms", "s"):
        raise ValueError(f"the goal '{text}' needs a unit: {metric}={found['number']}ms or {metric}={found['number']}s")
    goal = Goal(metric, number * 1000 if unit == "s" else number)
    units = ("ms", "s") if goal.percent is not None else _UNITS.get(metric, ())
    if unit not in units or (metric == "answers" and not number.is_integer()):
        raise ValueError(f"'{text}' is not a goal; give {HELP}")
    return goal


def judge(goal: Goal, figures: Mapping[str, float | None]) -> Verdict:
    """Compare with a run's figures, as `figures` of `load.result` gives them; nothing measured is not met."""
    value = figures.get(goal.metric)
    if value is None:
        return Verdict(str(goal), "no answers", is_met=False)
    is_met = value >= goal.limit if goal.is_floor else value <= goal.limit
    return Verdict(str(goal), _shown(goal.metric, value), is_met)


def _shown(metric: str, value: float) -> str:
    forms = {"rate": f"{value:.1f}/s", "failures": f"{value:.3g}%", "answers": f"{value:.0f}"}
    return forms.get(metric) or ms(value)
