"""Runs a plan: every system in turn, round after round, and keeps what was measured after each.

A system is started for its turn and stopped after it. Paused ones (SIGSTOP) would still hold memory and caches, and
some of them run timers and spinning threads as soon as they are let go; a fresh start also shows how much figures
differ from start to start.
"""

import itertools
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import hardware, raw, triton
from bench.capacity import capacity
from bench.compose import token_percentiles
from bench.contract import Target
from bench.generator import Generator
from bench.measure import Prepared, Row, measure, measure_raw, prepare, raw_difference
from bench.models import find_model
from bench.overhead import overhead
from bench.plan import Settings, Step, Workload, step_s, steps, workload
from bench.progress import Progress
from bench.usage import cores

if TYPE_CHECKING:
    from bench.peers.peer import Peer

FORMAT = 1
OVERHEAD_TEXTS = 40


class Run:
    """One run; `result` is what has been measured so far, written to `output/result.json` after each step."""

    def __init__(self, settings: Settings, peers: "Sequence[Peer]", output: Path, arguments: Sequence[str]) -> None:
        self.settings = settings
        self.peers = {peer.name: peer for peer in peers}
        self.output = output
        self.systems = [raw.NAME, triton.NAME, *self.peers]
        self.result: dict[str, Any] = {
            "format": FORMAT,
            "date": hardware.now(),
            "command": shlex.join(["scripts/bench", *arguments]),
            "commit": hardware.commit(),
            "hardware": hardware.hardware(),
            "versions": hardware.versions(),
            "settings": asdict(settings),
            "systems": {
                raw.NAME: {"title": raw.TITLE},
                triton.NAME: {"title": triton.TITLE},
                **{peer.name: {"title": peer.title, "notes": peer.notes} for peer in peers},
            },
            "workloads": {},
            "models": {},
            "points": [],
            "overhead": [],
            "failures": [],
            "scenarios": {},
            "complete": False,
        }
        self._prepared: dict[str, Prepared] = {}
        self._layouts: dict[tuple[str, str], str] = {}

    def go(self, progress: Progress) -> None:
        """Measure everything; KeyboardInterrupt leaves what was measured in `result`."""
        serves = {peer.name: peer.precisions for peer in self.peers.values()}
        plan = steps(self.settings, self.systems, serves)
        progress.plan(sum(step_s(self.settings, step.system) for step in plan))
        workloads = [workload(name) for name in self.settings.workloads]
        self._describe(workloads)
        own = self.result["generator"] = capacity(min(2.0, self.settings.seconds))
        progress.say(
            f"load generator: {own['requests_per_s']:.0f} requests/s of a server that answers at once, "
            f"{own['cpu_ms_per_request']:.2f} ms of CPU each"
        )
        for name in self.settings.models:
            model = find_model(name, progress.say, checkpoint=bool(self.peers))
            progress.say(f"{name}: computing the float32 answers that all are compared with")
            self._prepared[name] = prepare(model, workloads)
            self.result["models"][name] = {"labels": list(model.labels), "max_length": model.max_length}
        for step in plan:
            progress.begin(step_s(self.settings, step.system))
            try:
                self._step(step, workloads, progress)
            except Exception as exc:  # one system's failure must not lose the others' figures
                self.result["failures"].append({**asdict(step), "error": f"{type(exc).__name__}: {exc}"[:2000]})
                progress.say(f"{step.system} failed: {str(exc).splitlines()[0] if str(exc) else exc!r}")
            progress.end()
            self.write()
        self.result["complete"] = True
        self.write()

    def write(self) -> Path:
        """Write what there is; a file that exists is complete."""
        self.output.mkdir(parents=True, exist_ok=True)
        path = self.output / "result.json"
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)
        return path

    def _describe(self, workloads: Sequence[Workload]) -> None:
        for entry in workloads:
            self.result["workloads"][entry.name] = {
                "title": entry.title,
                "texts": len(entry.texts),
                "batch": entry.batch,
                "distilroberta_tokens": token_percentiles(entry.texts[:400]),
            }

    def _step(self, step: Step, workloads: Sequence[Workload], progress: Progress) -> None:
        prepared = self._prepared[step.model]
        if step.system == raw.NAME:
            self._raw(step, prepared, workloads, progress)
        elif step.system == triton.NAME:
            repository = prepared.model.repositories[step.precision]
            with triton.started(repository, progress.say, self.settings.triton_arguments) as running:
                statistics = triton.Statistics(running.address)
                try:
                    self._served(step, running.target, prepared, workloads, progress, statistics)
                finally:
                    statistics.close()
                for entry in workloads:
                    if entry.name in ("mixed", "short"):
                        figures = overhead(running, prepared, entry, step.precision, OVERHEAD_TEXTS)
                        self.result["overhead"].append({**asdict(step), "workload": entry.name, **figures})
        else:
            peer = self.peers[step.system]
            with peer.start(prepared.model, step.precision, cores(), progress.say) as target:
                self._served(step, target, prepared, workloads, progress, None)

    def _served(
        self,
        step: Step,
        target: Target,
        prepared: Prepared,
        workloads: Sequence[Workload],
        progress: Progress,
        statistics: triton.Statistics | None,
    ) -> None:
        best = 0.0
        with Generator(target.caller) as generator:
            for entry in workloads:
                for concurrency in self.settings.concurrencies(entry.name):
                    row = measure(
                        generator,
                        target,
                        prepared,
                        entry,
                        self.settings,
                        concurrency=concurrency,
                        statistics=statistics,
                    )
                    self._keep(step, row, progress)
                    if entry.name == "mixed":
                        best = max(best, row["texts_per_s"])
            mixed = [entry for entry in workloads if entry.name == "mixed"]
            for entry, share in itertools.product(mixed, self.settings.offered if best else ()):
                row = measure(
                    generator, target, prepared, entry, self.settings, rate=share * best, statistics=statistics
                )
                self._keep(step, {**row, "offered_share": share}, progress)

    def _raw(self, step: Step, prepared: Prepared, workloads: Sequence[Workload], progress: Progress) -> None:
        model, key = prepared.model, (step.model, step.precision)
        padded = model.int8 if step.precision == "int8" else model.float32
        served = model.repositories[step.precision] / "classifier" / "1" / "model.onnx"
        tried = raw.layouts(padded, served, cores(), every=self.settings.every_layout)
        for entry in workloads:
            if entry.batch > 1:
                continue  # without a server there are no requests; the texts are those of `mixed`
            rates = {}
            for layout in tried:
                row = measure_raw(prepared, layout, entry, self.settings)
                row["difference"] = raw_difference(prepared, layout.graph, entry, served=layout.served)
                rates[layout] = row["texts_per_s"]
                self._keep(step, row, progress)
            fastest = max(tried, key=lambda layout: rates[layout])
            self._layouts[key] = fastest.name
            graph = "served" if fastest.served else "padded"
            alone = raw.Layout(f"{graph} graph, one worker alone", fastest.graph, fastest.served, 1, 1, 1)
            self._keep(step, {**measure_raw(prepared, alone, entry, self.settings), "loop": "alone"}, progress)

    def _keep(self, step: Step, row: Row, progress: Progress) -> None:
        self.result["points"].append({**asdict(step), **row})
        progress.say(described(step, row))


def described(step: Step, row: Row) -> str:
    """One line about a point, as it is measured."""
    how = {
        "closed": f"{row['concurrency']} callers",
        "open": f"{row.get('offered_texts_per_s') or 0:.0f} texts/s offered",
        "raw": row.get("layout", ""),
        "alone": row.get("layout", ""),
    }[row["loop"]]
    latency = row["latency_ms"]
    times = f"p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms" if latency else "no answer"
    failed = f", {row['failed']} failed: {row['error']}" if row["failed"] else ""
    return (
        f"{step.model} {step.precision} {step.system}: {row['workload']}, {how}: "
        f"{row['texts_per_s']:.1f} texts/s, {times}{failed}"
    )
