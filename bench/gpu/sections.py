"""What is measured without a server: are the graphs right on this GPU, and how many tokens a second do they take."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.gpu import graphs
from bench.gpu.plan import WORKLOADS, GpuSettings
from bench.gpu.results import Add
from bench.gpu.rows import Ids, batch, flat, flop
from bench.gpu.runtime import bound, median_s, plain, session
from bench.gpu.torch_forms import TorchModel, packed_forward
from rejection_server.wording import one_line

GATE_TOKENS = 8192
LIMITS = {"fp32": (2e-3, 5e-4), "fp16": (0.2, 0.02)}
"""Largest difference from float32 in PyTorch of a logit and of a probability."""
PROFILED = "padded-fp16"
"""The graph whose kernels are told beside those of the first."""
PART_TOKENS = 8192
"""Tokens of the batches that the graphs beside the first are compared at."""


def gate(settings: GpuSettings, add: Add) -> None:
    """Compare every graph on this GPU with PyTorch in float32 there; a graph that differs is a failure."""
    vocabulary = graphs.config_of(settings)["vocab_size"]
    sets = {workload: batch(workload, GATE_TOKENS // (8 if settings.dry else 1), vocabulary) for workload in WORKLOADS}
    model = TorchModel(graphs.checkpoint_of(settings), settings.device, half=False)
    if not settings.dry:
        model.torch.backends.cuda.matmul.allow_tf32 = False
    expected = {workload: model.logits(rows) for workload, rows in sets.items()}
    wide = float(np.mean([np.std(logits[:, 1] - logits[:, 0]) for logits in expected.values()]))
    add("reference", title="PyTorch in float32, sdpa, padded", spread_of_logits=round(wide, 3))
    for name in graphs.names(settings):
        try:
            runner = session(graphs.path_of(settings, name), dry=settings.dry, exact=True)
            figures = _difference(runner, sets, expected)
        except Exception as exc:  # the other graphs are of interest all the same
            add("failed", graph=name, why=one_line(exc))
            continue
        logit, probability = LIMITS["fp16" if "fp16" in name else "fp32"]
        good = figures["largest_logit"] <= logit and figures["largest_probability"] <= probability
        add("compared" if good else "failed", graph=name, **figures)


def _difference(runner: Any, sets: dict[str, list[Ids]], expected: dict[str, Any]) -> dict[str, Any]:
    logit = probability = mean = alone = 0.0
    agree: list[bool] = []
    for workload, rows in sets.items():
        logits = plain(runner, flat(rows))()[0]
        if not np.isfinite(logits).all():
            raise RuntimeError(f"its logits of {workload} rows are not all finite")
        wanted = graphs.probabilities_of(expected[workload])
        apart = np.abs(graphs.probabilities_of(logits) - wanted)
        logit = max(logit, float(np.abs(logits - expected[workload]).max()))
        probability, mean = max(probability, float(apart.max())), max(mean, float(apart.mean()))
        agree += (logits.argmax(axis=1) == expected[workload].argmax(axis=1)).tolist()
        singly = np.concatenate([plain(runner, flat([row]))()[0] for row in rows[:12]])
        alone = max(alone, float(np.abs(singly - logits[:12]).max()))
    return {
        "largest_logit": float(f"{logit:.3g}"),
        "largest_probability": float(f"{probability:.3g}"),
        "mean_probability": float(f"{mean:.3g}"),
        "same_label": round(float(np.mean(agree)), 4),
        "rows": len(agree),
        "alone_or_in_batch": float(f"{alone:.3g}"),
    }


def raw(settings: GpuSettings, add: Add) -> None:
    """Rates of the graphs in onnxruntime, and in the end what the GPU's time goes into.

    The first that runs is measured with all batches; each other one in turns with it, so that whatever the GPU's clocks
    do meets both.
    """
    shape = graphs.config_of(settings)
    first: tuple[str, Any] | None = None
    for name in graphs.names(settings):
        try:
            runner = session(graphs.path_of(settings, name), dry=settings.dry)
            if first is None:
                _in_full(settings, add, runner, shape, name)
                first = (name, runner)
            else:
                _in_turns(settings, add, shape, first, (name, runner))
        except Exception as exc:  # the other graphs are of interest all the same
            add("failed", graph=name, why=one_line(exc))
    if first is None or settings.dry:
        return
    for name in sorted({first[0], PROFILED} & set(graphs.names(settings)), reverse=True):
        rows = batch(WORKLOADS[0], PART_TOKENS, shape["vocab_size"])
        runner = session(graphs.path_of(settings, name), dry=False)
        _kernels(add, bound(runner, flat(rows), settings.device), name)


def _in_full(settings: GpuSettings, add: Add, runner: Any, shape: dict[str, Any], name: str) -> None:
    for workload in WORKLOADS:
        for tokens in settings.tokens:
            rows = batch(workload, tokens, shape["vocab_size"])
            work = bound(runner, flat(rows), settings.device)
            _time(settings, add, work, rows, shape, graph=name, workload=workload, inputs="on the GPU")
            if workload == WORKLOADS[0]:
                work = plain(runner, flat(rows))
                _time(settings, add, work, rows, shape, graph=name, workload=workload, inputs="arrays")
    _fresh(settings, add, runner, shape, name)


def _in_turns(settings: GpuSettings, add: Add, shape: dict[str, Any], *sides: tuple[str, Any]) -> None:
    for workload in WORKLOADS:
        rows = batch(workload, settings.tokens[0] if settings.dry else PART_TOKENS, shape["vocab_size"])
        for name, runner in sides:
            about = {"graph": name, "workload": workload, "inputs": "on the GPU", "turn": sides[-1][0]}
            _time(settings, add, bound(runner, flat(rows), settings.device), rows, shape, **about)


def _kernels(add: Add, work: Callable[[], Any], graph: str, runs: int = 10) -> None:
    """What the GPU's time goes into: kernels by name, as PyTorch's profiler sees them of the whole process."""
    import torch

    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        begin = time.perf_counter()
        for _ in range(runs):
            work()
        seconds = time.perf_counter() - begin
    found = sorted(profile.key_averages(), key=lambda entry: -entry.self_device_time_total)
    total = sum(entry.self_device_time_total for entry in found) / 1000 / runs
    add(
        "kernels",
        graph=graph,
        ms=round(1000 * seconds / runs, 3),
        on_gpu_ms=round(total, 3),
        launches=round(sum(entry.count for entry in found if entry.self_device_time_total) / runs),
        by_name={
            entry.key[:100]: [round(entry.self_device_time_total / 1000 / runs, 4), round(entry.count / runs, 1)]
            for entry in found[:25]
        },
    )


def _fresh(settings: GpuSettings, add: Add, runner: Any, shape: dict[str, Any], graph: str) -> None:
    """The rate of batches as a server has them: arrays of 64 rows, each batch of other lengths than the last."""
    sets = [batch("mixed", 64 * 181, shape["vocab_size"], seed)[:64] for seed in range(4 if settings.dry else 40)]
    works = itertools.cycle([plain(runner, flat(rows)) for rows in sets])
    mean = [row for rows in sets for row in rows]
    seconds, calls = median_s(lambda: next(works)(), 2 * settings.window_s, warm=len(sets))
    tokens = sum(map(len, mean)) / len(sets)
    add(
        "rate",
        graph=graph,
        workload="mixed, each batch another",
        inputs="arrays",
        rows=64,
        tokens=round(tokens),
        ms=round(seconds * 1000, 3),
        calls=calls,
        texts_per_s=round(64 / seconds, 1),
        tokens_per_s=round(tokens / seconds),
        tflops=round(flop(mean, shape) / len(sets) / seconds / 1e12, 2),
    )


def beside_torch(settings: GpuSettings, add: Add) -> None:
    """Rates of the same checkpoint in PyTorch, float16: padded, and packed and compiled where there is a GPU."""
    shape = graphs.config_of(settings)
    model = TorchModel(graphs.checkpoint_of(settings), settings.device, half=not settings.dry)
    for workload in WORKLOADS:
        for tokens in settings.tokens:
            rows = batch(workload, tokens, shape["vocab_size"])
            _time(settings, add, model.padded(rows), rows, shape, graph="PyTorch, sdpa, padded", workload=workload)
    if settings.dry:
        return
    compiled = model.torch.compile(packed_forward, dynamic=True)
    for title, forward in (("PyTorch, varlen", packed_forward), ("PyTorch, varlen, compiled", compiled)):
        for workload in WORKLOADS:
            for tokens in settings.tokens:
                rows = batch(workload, tokens, shape["vocab_size"])
                work = model.packed(rows, forward)
                if workload == WORKLOADS[0] and tokens == settings.tokens[0]:
                    apart = float(np.abs(work().float().cpu().numpy() - model.logits(rows)).max())
                    add("compared", graph=title, largest_logit=float(f"{apart:.3g}"))
                _time(settings, add, work, rows, shape, graph=title, workload=workload)


def _time(
    settings: GpuSettings,
    add: Add,
    work: Callable[[], Any],
    rows: Sequence[Ids],
    shape: dict[str, Any],
    **about: Any,
) -> None:
    seconds, calls = median_s(work, settings.window_s)
    tokens = sum(map(len, rows))
    add(
        "rate",
        **about,
        rows=len(rows),
        tokens=tokens,
        ms=round(seconds * 1000, 3),
        calls=calls,
        texts_per_s=round(len(rows) / seconds, 1),
        tokens_per_s=round(tokens / seconds),
        tflops=round(flop(rows, shape) / seconds / 1e12, 2),
    )
