"""Measures one running system at one load, and says how its answers compare with the reference."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import machine, raw
from bench.contract import ModelFiles, Target
from bench.figures import Floats, Row, difference, figures
from bench.generator import Generator
from bench.load import Load
from bench.models import token_ids
from bench.plan import Workload
from bench.settings import BUILD, Settings
from bench.triton import Counts, Running, per_request_ms

RAW_COMPARED = 64


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model and what its texts should be answered."""

    model: ModelFiles
    ids: dict[str, list[list[int]]]
    """Token ids by workload."""
    reference: dict[str, Floats]
    """Probabilities [texts, labels] by workload; NaN where they were not computed."""


def prepare(model: ModelFiles, workloads: Sequence[Workload]) -> Prepared:
    """Tokenise the texts of all workloads and compute their reference, which is kept for the next run."""
    prepared = Prepared(model, {entry.name: token_ids(model, entry.texts) for entry in workloads}, {})
    with model.reference.open("rb") as file:
        graph = hashlib.file_digest(file, "sha256").hexdigest()
    for entry in workloads:
        ids = prepared.ids[entry.name]
        digest = hashlib.sha256(repr((graph, entry.compared, ids)).encode()).hexdigest()[:20]
        kept = BUILD / "references" / f"{digest}.npy"
        if not kept.exists():
            known = raw.probabilities(model.reference, ids[: entry.compared or None])
            kept.parent.mkdir(parents=True, exist_ok=True)
            unfinished = kept.with_suffix(".unfinished.npy")
            np.save(unfinished, np.pad(known, ((0, len(ids) - len(known)), (0, 0)), constant_values=np.nan))
            unfinished.replace(kept)
        prepared.reference[entry.name] = np.load(kept)
    return prepared


@dataclass(frozen=True, slots=True)
class Bench:
    """A running system with all that measuring it takes."""

    generator: Generator
    target: Target
    prepared: Prepared
    settings: Settings
    running: Running | None = None
    """Of this server: Triton's own counts."""

    def measure(
        self, workload: Workload, *, concurrency: int = 0, rate: float = 0.0, seconds: float | None = None
    ) -> Row:
        """One window of a closed loop of `concurrency` callers, or of an open loop at `rate` requests per second."""
        reference = self.prepared.reference[workload.name]
        load = Load(
            texts=workload.texts,
            batch=workload.batch,
            seconds=seconds or self.settings.seconds,
            warm_s=self.settings.warm_s,
            concurrency=concurrency,
            rate=rate,
        )
        cpu_s: dict[str, float] = {}
        counts: dict[str, Counts] = {}

        def on_mark(name: str) -> None:
            cpu_s[name] = machine.cpu_s(self.target.pids)
            if self.running is not None:
                counts[name] = self.running.counts()

        result = self.generator.run(load, reference, on_mark)
        row = {
            "workload": workload.name,
            "loop": "closed" if concurrency else "open",
            "concurrency": concurrency or None,
            "offered_texts_per_s": rate * workload.batch or None,
            **figures(result.recorded, open_loop=not concurrency),
            "memory_mb": round(machine.memory_mb(self.target.pids), 1),
            "difference": difference(result.answers, reference),
        }
        row["generator_busy"] = round(result.cpu_s / row["seconds"], 4)
        row["generator_cpu_ms_per_request"] = round(1000 * result.cpu_s / max(1, row["requests"]), 4)
        row["generator_late_p99_ms"] = None if concurrency else round(result.late_p99_ms, 3)
        row["cpu_ms_per_text"] = round(1000 * (cpu_s["end"] - cpu_s["begin"]) / max(1, row["texts"]), 4)
        if counts:
            row["triton"] = per_request_ms(counts["begin"], counts["end"])
        return row


def measure_raw(prepared: Prepared, layout: raw.Layout, workload: Workload, settings: Settings) -> Row:
    """One window of onnxruntime in process, and how far its answers to at most 64 texts are from the reference."""
    ids = prepared.ids[workload.name]
    recorded = raw.run(layout, ids, settings.seconds, settings.warm_s)
    count = min(RAW_COMPARED, workload.compared or len(ids))
    answers = raw.probabilities(layout.graph, ids[:count])
    return {
        "workload": workload.name,
        "loop": "raw",
        "layout": layout.name,
        "concurrency": layout.processes * layout.workers,
        **figures(recorded, open_loop=False),
        "difference": difference(answers, prepared.reference[workload.name][:count]),
    }
