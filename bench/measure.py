"""Measures one running system at one load, and says how its answers compare with float32."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import raw, usage
from bench.contract import ModelFiles, Target
from bench.figures import completed_per_s, difference, latency_ms, texts_per_s
from bench.generator import Generator
from bench.load import Load, Result
from bench.models import token_ids
from bench.plan import Settings, Workload
from bench.triton import Counts, Statistics, per_request_ms, since

Row = dict[str, Any]


@dataclass(slots=True)
class Prepared:
    """A model and what its texts should be answered."""

    model: ModelFiles
    ids: dict[str, list[list[int]]]
    """Token ids by workload."""
    reference: dict[str, NDArray[np.float64]]
    """Probabilities [texts, labels] by workload; NaN where they were not computed."""


def prepare(model: ModelFiles, workloads: Sequence[Workload]) -> Prepared:
    """Tokenise the texts of all workloads and compute their reference; kept beside the model's files."""
    ids = {workload.name: token_ids(model, workload.texts) for workload in workloads}
    reference = {}
    for workload in workloads:
        kept = model.float32.with_name(f"reference-{_digest(ids[workload.name], workload.compared)}.npy")
        if not kept.exists():
            count = workload.compared or len(workload.texts)
            known = raw.probabilities(model.float32, ids[workload.name][:count])
            table = np.full((len(workload.texts), known.shape[1]), np.nan)
            table[:count] = known
            _save(kept, table)
        reference[workload.name] = np.load(kept)
    return Prepared(model, ids, reference)


def measure(
    generator: Generator,
    target: Target,
    prepared: Prepared,
    workload: Workload,
    settings: Settings,
    *,
    concurrency: int = 0,
    rate: float = 0.0,
    statistics: Statistics | None = None,
) -> Row:
    """One window of a closed loop of `concurrency` callers, or of an open loop at `rate` requests per second."""
    reference = prepared.reference[workload.name]
    load = Load(
        texts=workload.texts,
        batch=workload.batch,
        seconds=settings.seconds,
        warm_s=settings.warm_s,
        concurrency=concurrency,
        rate=rate,
    )
    cpu: dict[str, float] = {}
    counts: dict[str, Counts] = {}

    def on_mark(name: str) -> None:
        cpu[name] = usage.cpu_s(target.pids)
        if statistics is not None:
            counts[name] = statistics.counts()

    result = generator.run(load, reference, on_mark)
    row = {
        "workload": workload.name,
        "loop": "closed" if concurrency else "open",
        "concurrency": concurrency or None,
        "offered_texts_per_s": rate * workload.batch or None,
        **figures(result, open_loop=not concurrency),
        "memory_mb": round(usage.memory_mb(target.pids), 1),
        "difference": difference(_answers(result, reference), reference),
    }
    texts = row["texts"]
    if texts and len(cpu) == 2:
        row["cpu_ms_per_text"] = round((cpu["end"] - cpu["begin"]) * 1000 / texts, 4)
    if len(counts) == 2:
        row["triton"] = per_request_ms(since(counts["begin"], counts["end"]))
    return row


def figures(result: Result, *, open_loop: bool) -> Row:
    """Rate, latencies and counts of a window."""
    recorded, begin, end = result.recorded, result.begin, result.end
    inside = (recorded.done >= begin) & (recorded.done < end)
    requests = int(inside.sum())
    rate = completed_per_s if open_loop else texts_per_s
    return {
        "seconds": round(end - begin, 3),
        "requests": requests,
        "texts": int(recorded.texts[inside].sum()),
        "failed": recorded.failed,
        "error": recorded.error or None,
        "texts_per_s": round(rate(recorded, begin, end), 3),
        "latency_ms": {
            name: round(value, 3) for name, value in latency_ms(recorded, begin, end, by_due=open_loop).items()
        },
        "generator_cpu_ms_per_request": round(result.cpu_s * 1000 / requests, 4) if requests else None,
        "generator_busy": round(result.cpu_s / (end - begin), 4),
        "generator_late_p99_ms": round(result.late_p99_ms, 3) if open_loop else None,
    }


def measure_raw(prepared: Prepared, layout: raw.Layout, workload: Workload, settings: Settings) -> Row:
    """One window of onnxruntime in process."""
    recorded, begin, end = raw.run(layout, prepared.ids[workload.name], settings.seconds, settings.warm_s)
    inside = (recorded.done >= begin) & (recorded.done < end)
    return {
        "workload": workload.name,
        "loop": "raw",
        "layout": layout.name,
        "concurrency": layout.processes * layout.workers,
        "seconds": round(end - begin, 3),
        "requests": int(inside.sum()),
        "texts": int(recorded.texts[inside].sum()),
        "failed": 0,
        "texts_per_s": round(texts_per_s(recorded, begin, end), 3),
        "latency_ms": {name: round(value, 3) for name, value in latency_ms(recorded, begin, end, by_due=False).items()},
    }


def raw_difference(prepared: Prepared, graph: Path, workload: Workload, *, served: bool) -> dict[str, float]:
    """How far a graph's own answers are from float32, over at most 64 texts."""
    count = min(64, workload.compared or len(workload.texts))
    answers = raw.probabilities(graph, prepared.ids[workload.name][:count], served=served)
    return difference(answers, prepared.reference[workload.name][:count])


def _answers(result: Result, reference: NDArray[np.float64]) -> NDArray[np.float64]:
    if result.answers is None:
        return np.full_like(reference, np.nan)
    return np.asarray(result.answers, np.float64)


def _digest(ids: list[list[int]], compared: int) -> str:
    return hashlib.sha256(repr((compared, ids)).encode()).hexdigest()[:10]


def _save(path: Path, table: NDArray[np.float64]) -> None:
    unfinished = path.with_suffix(".unfinished.npy")
    np.save(unfinished, table)
    unfinished.replace(path)
