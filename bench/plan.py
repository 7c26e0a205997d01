"""The order of a run, its workloads, and how long it takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.compose import long_texts, mixed_texts, short_texts
from bench.settings import WORKLOADS, Precision, Settings

REFERENCES = 256
"""Short texts whose probabilities are compared; there are more of them than one wants to compute."""
RAW = "raw-onnxruntime"
OURS = "rejection-server"

POINT_OVERHEAD_S = 0.6
START_S = 5.0
PEER_START_S = 12.0
QUICK_BUDGET_S = 150.0


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts, and how they are sent."""

    name: str
    texts: tuple[str, ...]
    title: str = ""
    """For tables and plots."""
    batch: int = 1
    compared: int = 0
    """How many of the texts, from the first, have a reference; 0 means all."""


def workload(name: str) -> Workload:
    """One of WORKLOADS."""
    if name == "mixed":
        return Workload(name, tuple(mixed_texts()), "mixed lengths")
    if name == "short":
        return Workload(name, tuple(short_texts()), "short (one refusal, varied)", compared=REFERENCES)
    if name == "long":
        return Workload(name, tuple(long_texts()), "long (512 tokens)")
    if name == "batch":
        return Workload(name, tuple(mixed_texts()), "requests of 32 mixed texts", batch=32)
    raise ValueError(f"there is no workload {name}: choose from {', '.join(WORKLOADS)}")


@dataclass(frozen=True, slots=True)
class Step:
    """One system with one model, measured once."""

    round: int
    model: str
    precision: Precision
    system: str


def steps(settings: Settings, systems: Sequence[str], serves: Mapping[str, Sequence[tuple[str, str]]]) -> list[Step]:
    """Round after round every system gets its turn, and each round begins with another one.

    `serves` holds the models with precisions of those systems that do not serve all. The bundled model exists as int8.
    """
    result = []
    for number in range(settings.rounds):
        turned = [*systems[number % len(systems) :], *systems[: number % len(systems)]]
        for model in settings.models:
            for precision in settings.precisions if model != "bundled" else ("int8",):
                pair = (model, precision)
                result += [Step(number + 1, *pair, system) for system in turned if pair in serves.get(system, (pair,))]
    return result


def points(settings: Settings, system: str) -> int:
    """Windows that are measured in one step, at most."""
    if system == RAW:
        return (3 if settings.quick else 6) * len([name for name in settings.workloads if name != "batch"])
    closed = sum(len(settings.concurrencies(name)) for name in settings.workloads)
    return closed + (len(settings.offered) if "mixed" in settings.workloads else 0)


def step_s(settings: Settings, system: str) -> float:
    """About how long a step takes."""
    each = settings.seconds + settings.warm_s + POINT_OVERHEAD_S
    if system == RAW:
        return points(settings, system) * (each + 1.0)
    return (START_S if system == OURS else PEER_START_S) + points(settings, system) * each


def fitted(settings: Settings, systems: Sequence[str]) -> Settings:
    """Quick settings with windows as long as the budget allows, 1 to 4 s each."""
    fixed = replace(settings, seconds=0.0, warm_s=0.5)
    combinations = len(settings.models) * len(settings.precisions) * settings.rounds
    spent_s = combinations * sum(step_s(fixed, system) for system in systems)
    windows = combinations * sum(points(settings, system) for system in systems)
    seconds = (QUICK_BUDGET_S - spent_s) / windows if windows else 4.0
    return replace(fixed, seconds=round(min(4.0, max(1.0, seconds)), 1))
