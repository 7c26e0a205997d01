"""What a run measures: its settings, its workloads, and how long that takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench.choices import MODELS, OFFERED, WORKLOADS
from bench.compose import long_texts, mixed_texts, short_texts

CONCURRENCY: dict[str, tuple[int, ...]] = {
    "mixed": (1, 8, 32, 128),
    "short": (1, 8, 16, 32, 128),
    "long": (1, 8, 32),
    # 32 texts a request: four callers are as many texts as 128 callers of one.
    "batch": (1, 4),
}
QUICK_CONCURRENCY: dict[str, tuple[int, ...]] = {"mixed": (1, 32), "short": (1, 16), "long": (8,), "batch": (1,)}
QUICK_OFFERED = (0.8,)
QUICK_WORKLOADS = ("mixed", "short", "batch")
BATCH = 32
REFERENCES = 256
"""Short texts whose probabilities are compared; there are more of them than one wants to compute."""

POINT_OVERHEAD_S = 0.6
START_S = {"rejection-server": 5.0}
PEER_START_S = 12.0
PROBE_S = 4.0
QUICK_BUDGET_S = 150.0


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts, and how they are sent."""

    name: str
    texts: tuple[str, ...]
    batch: int = 1
    compared: int = 0
    """How many of the texts, from the first, have a reference; 0 means all."""

    @property
    def title(self) -> str:
        """For tables and plots."""
        return {
            "mixed": "mixed lengths",
            "short": "short (one refusal, varied)",
            "long": "long (512 tokens)",
            "batch": f"requests of {self.batch} mixed texts",
        }[self.name]


def workload(name: str) -> Workload:
    """One of WORKLOADS."""
    if name == "mixed":
        return Workload(name, tuple(mixed_texts()))
    if name == "short":
        return Workload(name, tuple(short_texts()), compared=REFERENCES)
    if name == "long":
        return Workload(name, tuple(long_texts()))
    if name == "batch":
        return Workload(name, tuple(mixed_texts()), batch=BATCH)
    raise ValueError(f"there is no workload {name}: choose from {', '.join(WORKLOADS)}")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is chosen about a run."""

    models: tuple[str, ...] = MODELS
    precisions: tuple[Literal["float32", "int8"], ...] = ("int8", "float32")
    peers: tuple[str, ...] = ()
    workloads: tuple[str, ...] = WORKLOADS
    concurrency: tuple[int, ...] = ()
    """In place of CONCURRENCY, for every workload but batch."""
    offered: tuple[float, ...] = OFFERED
    """Arrival rates of the open loop, as shares of the rate the same system reached in a closed loop."""
    seconds: float = 8.0
    warm_s: float = 2.0
    rounds: int = 3
    quick: bool = False
    every_layout: bool = True
    """Whether all layouts of raw onnxruntime are tried."""
    scenarios: tuple[str, ...] = ()
    minutes: float = 10.0
    """Length of the soak."""
    triton_arguments: tuple[str, ...] = ()

    def concurrencies(self, workload: str) -> tuple[int, ...]:
        """Numbers of callers that a workload is measured at."""
        if self.concurrency and workload != "batch":
            return self.concurrency
        return (QUICK_CONCURRENCY if self.quick else CONCURRENCY)[workload]


@dataclass(frozen=True, slots=True)
class Step:
    """One system with one model, measured once: the order of a run."""

    round: int
    model: str
    precision: str
    system: str


def steps(settings: Settings, systems: Sequence[str], serves: dict[str, tuple[str, ...]]) -> list[Step]:
    """Round after round every system gets its turn, and each round begins with another one.

    `serves` holds the precisions of those systems that do not serve all.
    """
    result = []
    for number in range(settings.rounds):
        turned = [*systems[number % len(systems) :], *systems[: number % len(systems)]]
        for model in settings.models:
            for precision in settings.precisions:
                result += [
                    Step(number + 1, model, precision, system)
                    for system in turned
                    if precision in serves.get(system, (precision,))
                ]
    return result


def points(settings: Settings, system: str) -> int:
    """Windows that are measured in one step."""
    if system == "raw-onnxruntime":
        layouts = 5 if settings.every_layout else 2
        return (layouts + 1) * len([name for name in settings.workloads if name != "batch"])
    closed = sum(len(settings.concurrencies(name)) for name in settings.workloads)
    return closed + (len(settings.offered) if "mixed" in settings.workloads else 0)


def step_s(settings: Settings, system: str) -> float:
    """About how long a step takes."""
    each = settings.seconds + settings.warm_s + POINT_OVERHEAD_S
    if system == "raw-onnxruntime":
        return points(settings, system) * (each + 1.0)
    start_s = START_S.get(system, PEER_START_S)
    return start_s + (PROBE_S if system in START_S else 0.0) + points(settings, system) * each


def fitted(settings: Settings, systems: Sequence[str]) -> Settings:
    """Quick settings with windows as long as the budget allows, 1 to 4 s each."""
    fixed = replace(settings, seconds=0.0, warm_s=0.5)
    combinations = len(settings.models) * len(settings.precisions) * settings.rounds
    spent_s = combinations * sum(step_s(fixed, system) for system in systems)
    windows = combinations * sum(points(settings, system) for system in systems)
    seconds = (QUICK_BUDGET_S - spent_s) / windows if windows else 4.0
    return replace(settings, seconds=round(min(4.0, max(1.0, seconds)), 1), warm_s=0.5)
