"""Runs a plan: every system in turn, round after round, and keeps what was measured after each.

A system is started for its turn and stopped after it. Paused ones (SIGSTOP) would still hold memory and caches, and
some of them run timers and spinning threads as soon as they are let go; a fresh start also shows how much figures
differ from start to start.
"""

import datetime
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine, raw, triton
from bench.client_cost import capacity
from bench.compose import token_percentiles
from bench.figures import Row
from bench.generator import Generator
from bench.measure import Bench, Prepared, measure_raw, prepare
from bench.models import find_model
from bench.peers.peer import Peer
from bench.plan import OURS, RAW, Step, Workload, step_s, steps, workload
from bench.progress import Progress
from bench.settings import Settings

FORMAT = 2


class Run:
    """One run; `result` is what has been measured so far, written to `output/result.json` after each step."""

    def __init__(self, settings: Settings, peers: Sequence[Peer], output: Path, arguments: Sequence[str]) -> None:
        self.settings = settings
        self.peers = {peer.name: peer for peer in peers}
        self.output = output
        self.systems = [RAW, OURS, *self.peers]
        self.result: dict[str, Any] = {
            "format": FORMAT,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["scripts/bench", *arguments]),
            "commit": machine.commit(),
            "hardware": machine.hardware(),
            "versions": machine.versions(),
            "settings": asdict(settings),
            "systems": {
                RAW: {"title": raw.TITLE},
                OURS: {"title": triton.TITLE},
                **{peer.name: {"title": peer.title, "notes": peer.notes} for peer in peers},
            },
            "workloads": {},
            "points": [],
            "failures": [],
            "scenarios": {},
            "complete": False,
        }

    def go(self, progress: Progress) -> None:
        """Measure everything; KeyboardInterrupt leaves what was measured in `result`."""
        serves = {peer.name: peer.serves(self.settings.models) for peer in self.peers.values()}
        plan = steps(self.settings, self.systems, serves)
        progress.plan(sum(step_s(self.settings, step.system) for step in plan))
        workloads = [workload(name) for name in self.settings.workloads]
        for entry in workloads:
            self.result["workloads"][entry.name] = {
                "title": entry.title,
                "batch": entry.batch,
                "distilroberta_tokens": token_percentiles(entry.texts[:400]),
            }
        own = self.result["generator"] = capacity(min(2.0, self.settings.seconds))
        progress.say(
            f"load generator: {own['requests_per_s']:.0f} requests/s of a server that answers at once, "
            f"{own['cpu_ms_per_request']:.2f} ms of CPU each"
        )
        prepared = {}
        for name in self.settings.models:
            model = find_model(name, progress.say)
            progress.say(f"{name}: computing the answers that all are compared with")
            prepared[name] = prepare(model, workloads)
        for step in plan:
            progress.begin(step_s(self.settings, step.system))
            try:
                self._step(step, prepared[step.model], workloads, progress)
            except Exception as exc:  # one system's failure must not lose the others' figures
                self.failed(step, exc, step.system, progress)
            progress.end()
            self.write()
        self.result["complete"] = True
        self.write()

    def failed(self, step: Step, exc: Exception, what: str, progress: Progress) -> None:
        """Keep an error among the figures."""
        words = f"{type(exc).__name__}: {exc}"
        self.result["failures"].append({**asdict(step), "error": words[:2000]})
        progress.say(f"{what} failed: {words.splitlines()[0]}")

    def write(self) -> Path:
        """Write what there is; a file that exists is complete."""
        self.output.mkdir(parents=True, exist_ok=True)
        path = self.output / "result.json"
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)
        return path

    def _step(self, step: Step, prepared: Prepared, workloads: Sequence[Workload], progress: Progress) -> None:
        def keep(row: Row) -> None:
            self.result["points"].append({**asdict(step), **row})
            progress.say(described(step, row))

        settings, model = self.settings, prepared.model
        if step.system == RAW:
            tried = raw.layouts(model, step.precision, machine.cores(), every=not settings.quick)
            # Without a server there are no requests: `batch` has the texts of `mixed`.
            for entry in (entry for entry in workloads if entry.batch == 1):
                rates = {}
                for layout in tried:
                    row = measure_raw(prepared, layout, entry, settings)
                    rates[layout] = row["texts_per_s"]
                    keep(row)
                alone = raw.alone(max(tried, key=lambda layout: rates[layout]))
                keep({**measure_raw(prepared, alone, entry, settings), "loop": "alone"})
        elif step.system == OURS:
            repository = model.repositories[step.precision]
            with (
                triton.started(repository, progress.say, settings.triton_arguments) as running,
                Generator(running.target.caller) as generator,
            ):
                _served(Bench(generator, running.target, prepared, settings, running), workloads, keep)
        else:
            peer = self.peers[step.system]
            with (
                peer.start(model, step.precision, machine.cores(), progress.say) as target,
                Generator(target.caller) as generator,
            ):
                _served(Bench(generator, target, prepared, settings), workloads, keep)


def _served(bench: Bench, workloads: Sequence[Workload], keep: Any) -> None:
    best = 0.0
    for entry in workloads:
        for concurrency in bench.settings.concurrencies(entry.name):
            row = bench.measure(entry, concurrency=concurrency)
            keep(row)
            best = max(best, row["texts_per_s"] if entry.name == "mixed" else 0.0)
    for entry in (entry for entry in workloads if entry.name == "mixed" and best):
        for share in bench.settings.offered:
            keep({**bench.measure(entry, rate=share * best), "offered_share": share})


def described(step: Step, row: Row) -> str:
    """One line about a point, as it is measured."""
    how = row.get("layout") or f"{row['concurrency']} callers"
    if row["loop"] == "open":
        how = f"{row['offered_texts_per_s']:.0f} texts/s offered"
    latency = row["latency_ms"]
    times = f"p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms" if latency else "no answer"
    failed = f", {row['failed']} failed: {row['error']}" if row["failed"] else ""
    return (
        f"{step.model} {step.precision} {step.system}: {row['workload']}, {how}: "
        f"{row['texts_per_s']:.1f} texts/s, {times}{failed}"
    )
