"""What can be chosen about a run, and where things are. Standard library only: help needs nothing installed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Precision = Literal["float32", "int8"]

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "bench"
"""All that the benchmark makes goes in here."""
REPOSITORY = ROOT / "model_repository"
"""The bundled model as checked out."""
LOADGEN = ROOT / "build" / "loadgen" / "loadgen"
"""The load generator in C++, once scripts/build-loadgen has built it."""

MODELS = ("bundled", "distilroberta")
WORKLOADS = ("mixed", "short", "long", "batch")
SCENARIOS = ("bursts", "callers", "guard", "fairness", "repeats", "soak", "growth", "several")

CONCURRENCY = {
    "mixed": (1, 8, 32, 128),
    "short": (1, 8, 16, 32, 128),
    "long": (1, 8, 32),
    # 32 texts a request: four callers are as many texts as 128 callers of one.
    "batch": (1, 4),
}
QUICK_CONCURRENCY = {"mixed": (1, 32), "short": (1, 16), "long": (8,), "batch": (1,)}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is chosen about a run."""

    models: tuple[str, ...] = MODELS
    precisions: tuple[Precision, ...] = ("int8", "float32")
    workloads: tuple[str, ...] = WORKLOADS
    concurrency: tuple[int, ...] = ()
    """In place of CONCURRENCY, for every workload but batch."""
    offered: tuple[float, ...] = (0.5, 0.8, 0.95)
    """Arrival rates of the open loop, as shares of the rate the same system reached in a closed loop."""
    seconds: float = 8.0
    warm_s: float = 2.0
    rounds: int = 3
    quick: bool = False
    scenarios: tuple[str, ...] = ()
    minutes: float = 10.0
    """Length of the soak."""
    triton_arguments: tuple[str, ...] = ()

    def concurrencies(self, workload: str) -> tuple[int, ...]:
        """Numbers of callers that a workload is measured at."""
        if self.concurrency and workload != "batch":
            return self.concurrency
        return (QUICK_CONCURRENCY if self.quick else CONCURRENCY)[workload]


QUICK = Settings(
    models=("bundled",),
    precisions=("int8",),
    workloads=("mixed", "short", "batch"),
    offered=(0.8,),
    rounds=1,
    quick=True,
)
