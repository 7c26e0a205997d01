"""Questions that a sweep over loads does not answer, about this server alone: one function each, see SCENARIOS."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from bench import callers, machine, several
from bench.compose import texts_of_length
from bench.contract import Caller, Target
from bench.figures import Row, spread_ms
from bench.generator import Generator
from bench.measure import Bench, prepare
from bench.models import find_model
from bench.plan import OURS, Step, Workload, workload
from bench.progress import Progress
from bench.run import Run
from bench.settings import Settings
from bench.triton import TritonCaller, started

BURST_SIZES = (1, 2, 4, 8)
BURSTS = 60
"""Bursts of each size; before them a few that warm up."""
BURSTS_WARM = 5
PAUSES_S = (0.11, 0.13, 0.17, 0.19)
"""In turns, so that no clock of the server's is met again and again."""
LONG_LOAD = 0.8
"""Share of the rate of 512-token texts that the server can do at most, for fairness."""
SHORT_RATE = 5.0
"""Short texts per second beside them."""
SHORT_S = 100 / SHORT_RATE
"""Long enough for a hundred short texts: below, a p99 is just the largest."""
GUARD_LOADS = (("short", 1), ("short", 16), ("mixed", 32))
"""Workload, and callers of the closed loop."""
GROWTH_CALLERS = (1, 2, 8, 32, 128, 512)
GROWTH_TOKENS = (16, 32, 64, 128, 256, 512)
SOAK_CALLERS = 32
SETTLED_S = 60.0
"""Memory is compared from here on; before, buffers still grow to the longest batch."""
MEMORY_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A question, and about how long the answer takes."""

    answer: Callable[[Bench], Row]
    planned_s: Callable[[Settings], float]


def go(run: Run, progress: Progress) -> None:
    """Run the chosen scenarios with every model and precision; results go to `run.result["scenarios"]`."""
    settings = run.settings
    pairs = [(name, kind) for name in settings.models for kind in settings.precisions if (name, kind) not in UNKNOWN]
    planned = {name: SCENARIOS[name].planned_s(settings) + 5.0 for name in settings.scenarios}
    progress.plan(len(pairs) * sum(planned.values()))
    for (name, precision), scenario in itertools.product(pairs, settings.scenarios):
        step = Step(1, name, precision, OURS)
        prepared = prepare(find_model(name, progress.say), [workload(kind) for kind in ("mixed", "short", "long")])
        repository = prepared.model.repositories[precision]
        progress.begin(planned[scenario])
        try:
            with (
                started(repository, progress.say, settings.triton_arguments, cache=scenario == "repeats") as running,
                Generator(running.target.caller) as generator,
            ):
                bench = Bench(generator, running.target, prepared, settings, running)
                row = SCENARIOS[scenario].answer(bench)
        except Exception as exc:  # the other scenarios' figures are worth keeping
            run.failed(step, exc, scenario, progress)
        else:
            run.result["scenarios"].setdefault(scenario, []).append({**asdict(step), **row})
            progress.say(f"{name} {precision} {scenario}: measured")
        progress.end()
        run.write()
    run.result["complete"] = True


UNKNOWN = {("bundled", "float32")}


def fairness(bench: Bench) -> Row:
    """Short texts while 512-token texts flow at 80% of what the server can do: their p99, and a long text's time."""
    long, short = workload("long"), workload("short")
    longest_ms = bench.measure(long, concurrency=1)["latency_ms"]["p50"]
    capacity = bench.measure(long, concurrency=8)["texts_per_s"]
    seconds = max(bench.settings.seconds, SHORT_S)
    rows: dict[str, Row] = {}
    with Generator(bench.target.caller) as generator:
        other = replace(bench, generator=generator)
        quiet = other.measure(short, rate=SHORT_RATE, seconds=seconds)

        def flow() -> None:
            rows["long"] = bench.measure(long, rate=LONG_LOAD * capacity, seconds=seconds)

        thread = threading.Thread(target=flow)
        thread.start()
        rows["short"] = other.measure(short, rate=SHORT_RATE, seconds=seconds)
        thread.join()
    return {
        "longest_alone_p50_ms": longest_ms,
        "long_capacity_texts_per_s": capacity,
        "short_quiet": quiet["latency_ms"],
        "short_beside_long": rows["short"]["latency_ms"],
        "long_at_load": rows["long"]["latency_ms"],
        "failed": rows["short"]["failed"] + rows["long"]["failed"],
        "short_p99_to_longest": round(rows["short"]["latency_ms"]["p99"] / longest_ms, 3),
    }


def guard(bench: Bench) -> Row:
    """What the guard costs: the same loads at it and at Triton behind it, in turns."""
    assert bench.running is not None, "it is about this server"
    rows: list[Row] = []
    with Generator(TritonCaller(bench.running.direct)) as generator:
        doors = {"the guard": bench, "Triton": replace(bench, generator=generator)}
        for _ in range(bench.settings.rounds):
            for kind, concurrency in GUARD_LOADS:
                for door, at in doors.items():
                    row = at.measure(workload(kind), concurrency=concurrency)
                    figures = {name: row[name] for name in (*callers.FIGURES, "cpu_ms_per_text")}
                    rows.append({"caller": door, "workload": kind, "concurrency": concurrency, **figures})
    return {"rows": callers.joined(rows)}


def repeats(bench: Bench) -> Row:
    """One text again and again, one caller: how fast the response cache answers, and what the model is still asked."""
    entry = Workload("repeats", workload("short").texts[:1])
    row = _with(bench, entry).measure(entry, concurrency=1)
    hits = sum(model["cache_hits"] for model in row["triton"].values())
    return {**row, "cache_hits": hits, "executions": row["triton"].get("classifier", {}).get("executions", 0)}


def bursts(bench: Bench) -> Row:
    """A few requests at the same moment, then a pause: how late is the last?

    A closed loop does not see a request that waits beside an idle instance until the next one comes, since there the
    next comes at once. Here it does not come before all of this burst are answered.
    """
    return {"rows": asyncio.run(last_answers(bench.target, workload("short").texts))}


async def last_answers(target: Target, texts: Sequence[str]) -> list[Row]:
    """For each size of a burst of single texts: milliseconds from its start to its last answer."""
    rows, pauses_s, endless = [], itertools.cycle(PAUSES_S), itertools.cycle(texts)
    async with target.caller() as caller:
        for size in BURST_SIZES:
            times_ms = []
            for _ in range(BURSTS_WARM + BURSTS):
                times_ms.append(await _burst(caller, itertools.islice(endless, size)))
                await asyncio.sleep(next(pauses_s))
            rows.append({"requests": size, "bursts": BURSTS, "latency_ms": spread_ms(times_ms[BURSTS_WARM:])})
    return rows


async def _burst(caller: Caller, texts: Iterator[str]) -> float:
    start_s = time.perf_counter()
    await asyncio.gather(*(caller([text]) for text in texts))
    return 1000 * (time.perf_counter() - start_s)


def soak(bench: Bench) -> Row:
    """Full load for minutes: memory after the first minute, and at the end."""
    total_s = bench.settings.minutes * 60
    samples: list[tuple[float, float]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(MEMORY_EVERY_S):
            samples.append(((len(samples) + 1) * MEMORY_EVERY_S, round(machine.memory_mb(bench.target.pids), 1)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        row = bench.measure(workload("mixed"), concurrency=SOAK_CALLERS, seconds=total_s)
    finally:
        done.set()
        watcher.join()
    settled_s = min(SETTLED_S, total_s / 4)
    settled = [memory for seconds, memory in samples if seconds >= settled_s][:3] or [row["memory_mb"]]
    last = [memory for _, memory in samples[-3:]] or [row["memory_mb"]]
    growth = float(np.median(last) / np.median(settled) - 1)
    return {**row, "memory_growth": round(growth, 4), "settled_s": settled_s, "memory_mb_by_s": samples}


def growth(bench: Bench) -> Row:
    """Server CPU for each token against the number of callers, and against the length of the texts."""
    mixed = workload("mixed")
    by_callers = [{"concurrency": count, **_per_token(bench, mixed, count)} for count in GROWTH_CALLERS]
    lengths = []
    for tokens in GROWTH_TOKENS:
        texts = texts_of_length(tokens + (64 if tokens >= 512 else 0), 32)
        entry = Workload(f"length-{tokens}", tuple(texts), compared=1)
        lengths.append({"tokens": tokens, **_per_token(_with(bench, entry), entry, 8)})
    return {"callers": by_callers, "lengths": lengths}


def _per_token(bench: Bench, entry: Workload, concurrency: int) -> Row:
    row = bench.measure(entry, concurrency=concurrency)
    tokens = float(np.mean([len(ids) for ids in bench.prepared.ids[entry.name]]))
    return {
        "tokens_per_s": round(row["texts_per_s"] * tokens, 1),
        "cpu_us_per_token": round(row["cpu_ms_per_text"] * 1000 / tokens, 2),
        **{name: row[name] for name in ("texts_per_s", "latency_ms", "failed")},
    }


def _with(bench: Bench, entry: Workload) -> Bench:
    """To measure a workload of a scenario's own."""
    return replace(bench, prepared=prepare(bench.prepared.model, [entry]))


def _windows(count: int) -> Callable[[Settings], float]:
    return lambda settings: count * (settings.seconds + settings.warm_s)


SCENARIOS = {
    "bursts": Scenario(
        bursts, lambda _: len(BURST_SIZES) * (BURSTS + BURSTS_WARM) * (sum(PAUSES_S) / len(PAUSES_S) + 0.02)
    ),
    "callers": Scenario(
        lambda bench: {"rows": callers.in_turns(bench)},
        lambda settings: settings.rounds * _windows(callers.WINDOWS)(settings),
    ),
    "guard": Scenario(guard, lambda settings: settings.rounds * _windows(2 * len(GUARD_LOADS))(settings)),
    "fairness": Scenario(
        fairness, lambda settings: _windows(2)(settings) + 2 * (max(settings.seconds, SHORT_S) + settings.warm_s)
    ),
    "repeats": Scenario(repeats, _windows(1)),
    "soak": Scenario(soak, lambda settings: settings.minutes * 60 + settings.warm_s),
    "several": Scenario(
        lambda bench: {"rows": several.in_turns(bench)},
        lambda settings: 20.0 + settings.rounds * _windows(several.WINDOWS)(settings),
    ),
    "growth": Scenario(growth, _windows(len(GROWTH_CALLERS) + len(GROWTH_TOKENS))),
}
