"""Questions that a sweep over loads does not answer: fairness, memory over time, growth. About this server alone."""

import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import bursts, callers, usage
from bench.compose import texts_of_length
from bench.contract import Target
from bench.generator import Generator
from bench.measure import Prepared, measure, prepare
from bench.models import find_model
from bench.plan import Settings, Step, Workload, workload
from bench.progress import Progress
from bench.triton import NAME, Running, Statistics, started

if TYPE_CHECKING:
    from bench.run import Run

LONG_LOAD = 0.8
"""Share of the rate of 512-token texts that the server can do at most, for fairness."""
SHORT_RATE = 5.0
"""Short texts per second beside them."""
GROWTH_CALLERS = (1, 2, 8, 32, 128, 512)
GROWTH_TOKENS = (16, 32, 64, 128, 256, 512)
SOAK_CALLERS = 32
SETTLED_S = 60.0
"""Memory is compared from here on; before, buffers still grow to the longest batch."""
MEMORY_EVERY_S = 5.0

Scenario = Callable[[Running, Prepared, Settings, Progress], dict[str, Any]]


def go(run: "Run", progress: Progress) -> None:
    """Run the chosen scenarios with every model and precision; results go to `run.result["scenarios"]`."""
    settings = run.settings
    count = len(settings.models) * len(settings.precisions)
    planned = {name: PLANNED[name](settings) + 5.0 for name in settings.scenarios}
    progress.plan(count * sum(planned.values()))
    for name in settings.models:
        model = find_model(name, progress.say, checkpoint=False)
        prepared = prepare(model, [workload(kind) for kind in ("mixed", "short", "long")])
        for precision in settings.precisions:
            for scenario in settings.scenarios:
                step = Step(1, name, precision, NAME)
                progress.begin(planned[scenario])
                try:
                    repository, cache = Path(model.repositories[precision]), scenario == "repeats"
                    with started(repository, progress.say, settings.triton_arguments, cache=cache) as running:
                        figure = RUN[scenario](running, prepared, settings, progress)
                except Exception as exc:  # the other scenarios' figures are worth keeping
                    run.result["failures"].append({**asdict(step), "error": f"{scenario}: {exc}"[:2000]})
                    progress.say(f"{scenario} failed: {exc}")
                else:
                    run.result["scenarios"].setdefault(scenario, []).append({**asdict(step), **figure})
                progress.end()
                run.write()
    run.result["complete"] = True


def fairness(running: Running, prepared: Prepared, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Short texts while 512-token texts flow at 80% of what the server can do: their p99, and a long text's time."""
    target, long, short = running.target, workload("long"), workload("short")
    with Generator(target.caller) as first, Generator(target.caller) as second:
        alone = measure(first, target, prepared, long, settings, concurrency=1)
        capacity = measure(first, target, prepared, long, settings, concurrency=8)["texts_per_s"]
        quiet = measure(second, target, prepared, short, settings, rate=SHORT_RATE)
        # Long enough for a hundred short texts: below, a p99 is just the largest.
        window = replace(settings, seconds=max(settings.seconds, 100 / SHORT_RATE))
        rows: dict[str, Any] = {}

        def flow() -> None:
            rows["long"] = measure(first, target, prepared, long, window, rate=LONG_LOAD * capacity)

        other = threading.Thread(target=flow)
        other.start()
        rows["short"] = measure(second, target, prepared, short, window, rate=SHORT_RATE)
        other.join()
    longest_ms = alone["latency_ms"]["p50"]
    ratio = rows["short"]["latency_ms"]["p99"] / longest_ms
    progress.say(f"fairness: short p99 is {ratio:.2f} times the median of the longest ({longest_ms:.1f} ms)")
    return {
        "longest_alone_p50_ms": longest_ms,
        "long_capacity_texts_per_s": capacity,
        "short_quiet": quiet["latency_ms"],
        "short_beside_long": rows["short"]["latency_ms"],
        "long_at_load": rows["long"]["latency_ms"],
        "failed": rows["short"]["failed"] + rows["long"]["failed"],
        "short_p99_to_longest": round(ratio, 3),
    }


def repeats(running: Running, prepared: Prepared, settings: Settings, progress: Progress) -> dict[str, Any]:
    """One text again and again, one caller: how fast the response cache answers, and what the model is still asked."""
    text = workload("short").texts[0]
    entry = Workload("repeats", (text,), compared=1)
    of_this = prepare(prepared.model, [entry])
    statistics = Statistics(running.address)
    try:
        with Generator(running.target.caller) as generator:
            row = measure(generator, running.target, of_this, entry, settings, concurrency=1, statistics=statistics)
    finally:
        statistics.close()
    runs = row["triton"].get("classifier", {}).get("executions", 0)
    hits = sum(model["cache_hits"] for model in row["triton"].values())
    progress.say(f"repeats: p50 {row['latency_ms'].get('p50', float('nan')):.2f} ms, {hits} hits, {runs} executions")
    return {**row, "cache_hits": hits, "executions": runs}


def few_at_once(running: Running, prepared: Prepared, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Bursts of a few short texts with pauses between."""
    rows = bursts.last_answers(running.target, workload("short"))
    for row in rows:
        latency = row["latency_ms"]
        progress.say(f"bursts: the last of {row['requests']}: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms")
    return {"rows": rows}


def soak(running: Running, prepared: Prepared, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Full load for minutes: memory after the first minute, and at the end."""
    mixed, total_s = workload("mixed"), settings.minutes * 60
    samples: list[tuple[float, float]] = []
    done = threading.Event()

    def watch() -> None:
        seconds = 0.0
        while not done.wait(MEMORY_EVERY_S):
            seconds += MEMORY_EVERY_S
            samples.append((seconds, round(usage.memory_mb(running.target.pids), 1)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with Generator(running.target.caller) as generator:
            window = replace(settings, seconds=total_s, warm_s=settings.warm_s)
            row = measure(generator, running.target, prepared, mixed, window, concurrency=SOAK_CALLERS)
    finally:
        done.set()
        watcher.join()
    settled_s = min(SETTLED_S, total_s / 4)
    settled = [memory for seconds, memory in samples if seconds >= settled_s][:3] or [row["memory_mb"]]
    last = [memory for _, memory in samples[-3:]] or [row["memory_mb"]]
    growth = float(np.median(last) / np.median(settled) - 1)
    progress.say(f"soak: {growth:+.2%} memory from {settled_s:.0f} s to the end, {row['texts']} texts")
    return {**row, "memory_growth": round(growth, 4), "settled_s": settled_s, "memory_mb_by_s": samples}


def growth(running: Running, prepared: Prepared, settings: Settings, progress: Progress) -> dict[str, Any]:
    """Server CPU for each token against the number of callers, and against the length of the texts."""
    mixed, target = workload("mixed"), running.target
    per_text = float(np.mean([len(ids) for ids in prepared.ids["mixed"]]))
    callers = []
    with Generator(target.caller) as generator:
        for concurrency in GROWTH_CALLERS:
            row = measure(generator, target, prepared, mixed, settings, concurrency=concurrency)
            callers.append({"concurrency": concurrency, **_per_token(row, per_text)})
            progress.say(f"growth: {concurrency} callers, {callers[-1]['cpu_us_per_token']} us of CPU a token")
        lengths = [_of_length(generator, target, prepared, settings, tokens) for tokens in GROWTH_TOKENS]
    return {"callers": callers, "lengths": lengths}


def _of_length(
    generator: Generator, target: Target, prepared: Prepared, settings: Settings, tokens: int
) -> dict[str, Any]:
    name = f"length-{tokens}"
    entry = Workload(name, tuple(texts_of_length(tokens + (64 if tokens >= 512 else 0), 32)), compared=1)
    of_this = prepare(prepared.model, [entry])
    row = measure(generator, target, of_this, entry, settings, concurrency=8)
    return {"tokens": tokens, **_per_token(row, float(np.mean([len(ids) for ids in of_this.ids[name]])))}


def _per_token(row: dict[str, Any], tokens_per_text: float) -> dict[str, Any]:
    return {
        "texts_per_s": row["texts_per_s"],
        "tokens_per_s": round(row["texts_per_s"] * tokens_per_text, 1),
        "cpu_us_per_token": round(row.get("cpu_ms_per_text", 0.0) * 1000 / tokens_per_text, 2),
        "latency_ms": row["latency_ms"],
        "failed": row["failed"],
    }


def other_callers(running: Running, prepared: Prepared, settings: Settings, progress: Progress) -> dict[str, Any]:
    """The same loads from C++ and from Python."""
    rows = callers.in_turns(running, prepared, settings)
    for row in rows:
        progress.say(
            f"callers: {row['caller']}, {row['workload']}, {row['concurrency']}: {row['texts_per_s']:.1f} texts/s, "
            f"p50 {row['latency_ms']['p50']:.2f} ms, {row['caller_cpu_ms']:.3f} ms of the caller's CPU a request"
        )
    return {"rows": rows}


RUN: dict[str, Scenario] = {
    "bursts": few_at_once,
    "callers": other_callers,
    "fairness": fairness,
    "repeats": repeats,
    "soak": soak,
    "growth": growth,
}

PLANNED: dict[str, Callable[[Settings], float]] = {
    "bursts": lambda settings: bursts.planned_s(),
    "callers": lambda settings: settings.rounds * callers.windows() * (settings.seconds + settings.warm_s),
    "fairness": lambda settings: 3 * (settings.seconds + settings.warm_s) + max(settings.seconds, 100 / SHORT_RATE),
    "repeats": lambda settings: settings.seconds + settings.warm_s,
    "soak": lambda settings: settings.minutes * 60 + settings.warm_s,
    "growth": lambda settings: (len(GROWTH_CALLERS) + len(GROWTH_TOKENS)) * (settings.seconds + settings.warm_s),
}
