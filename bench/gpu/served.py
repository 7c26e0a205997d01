"""The served graph behind Triton: tokenizer processes and classifier instances in turn, and what each part costs."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from bench.callers import run_loadgen, write_texts
from bench.compose import mixed_texts, roberta_tokenizer
from bench.contract import OpenCaller
from bench.generator import Generator
from bench.gpu import graphs
from bench.gpu.plan import Door, GpuSettings
from bench.gpu.results import Add
from bench.load import Load
from bench.machine import cores
from bench.random_model import LABELS
from bench.settings import LOADGEN
from bench.triton import Running, TritonCaller, started
from rejection_server.names import Names
from rejection_server.prepare import repository
from rejection_server.prepare.configuration import Shape
from rejection_server.prepare.tokenizer import sample_rows

Layout = tuple[int, int]
"""Tokenizer processes, classifier instances."""

PARTS = {"guard": "rejection_server.guard", "tokenizer": "/tokenizer/", "stand-in": "/backends/onnxruntime"}
"""What the command line of a part's processes holds."""
DOORS: tuple[Door, ...] = ("triton", "guard")
TEXTS = 3000
WARM_S = 0.5
SLOWER = 0.8
"""The open loop's rate, beside what the best closed loop reached."""


def measure(settings: GpuSettings, add: Add) -> None:
    """Every layout under every load, then an open loop on the best one."""
    with tempfile.TemporaryDirectory(dir=settings.work) as folder:
        _Sweep(settings, add, Path(folder), mixed_texts(48 if settings.dry else TEXTS)).go()


@dataclass(frozen=True, slots=True)
class _Sweep:
    settings: GpuSettings
    add: Add
    folder: Path
    texts: list[str]

    @property
    def sent(self) -> Path:
        """The texts as a file."""
        return self.folder / "texts.jsonl"

    def go(self) -> None:
        write_texts(self.sent, self.texts)
        best: tuple[float, Layout] = (0.0, self.settings.layouts[0])
        for layout in self.settings.layouts:
            with self._serving(layout) as running:
                for batch, callers, door in self.settings.loads:
                    rate = self._window(running, layout, self._load(batch, callers), door)
                    best = max(best, (rate if batch == 1 else 0.0, layout))
        with self._serving(best[1]) as running:
            for door in DOORS:
                self._window(running, best[1], self._load(1, 0, SLOWER * best[0]), door)

    def _load(self, batch: int, callers: int, rate: float = 0.0) -> Load:
        return Load(self.texts, self.settings.load_s, WARM_S, batch, callers, rate)

    @contextlib.contextmanager
    def _serving(self, layout: Layout) -> Iterator[Running]:
        place = self.folder / "repository"
        shutil.rmtree(place, ignore_errors=True)
        _write_repository(self.settings, place, layout)
        begin = time.monotonic()
        with started(place, lambda _: None) as running:
            self.add("started", tokenizers=layout[0], instances=layout[1], seconds=round(time.monotonic() - begin, 1))
            yield running

    def _window(self, running: Running, layout: Layout, load: Load, door: Door) -> float:
        """Measure one load; returns texts a second."""
        pids, address = running.target.pids, running.direct if door == "triton" else running.address
        before, spent, begin = running.counts()["classifier"], _cpu_s(pids), time.monotonic()
        with _gpu_use(self.settings.dry) as use:
            if LOADGEN.is_file():
                said = _by_program(address, load, self.sent)
            else:
                said = by_python(TritonCaller(address), load)
            seconds = time.monotonic() - begin
        cpu = {name: total - spent[name] for name, total in _cpu_s(pids).items()}
        after = running.counts()["classifier"]
        passed = {name: after[name] - before.get(name, 0) for name in ("texts", "executions", "requests", "executing")}
        busy = {
            "tokenizer": cpu["tokenizer"] / seconds / layout[0],
            "classifier": passed["executing"] / 1e9 / seconds / layout[1],
            "guard": cpu["guard"] / seconds,
            "load generator": said.pop("generator_cpu_s") / (said["seconds"] or 1),
            "all cores": sum(cpu.values()) / seconds / cores(),
        }
        self.add(
            "load",
            door=door,
            tokenizers=layout[0],
            instances=layout[1],
            batch=load.batch,
            callers=load.concurrency,
            rate=round(load.rate, 1),
            **said,
            texts_per_execution=round(passed["texts"] / (passed["executions"] or 1), 1),
            execution_ms=round(passed["executing"] / 1e6 / (passed["executions"] or 1), 3),
            gpu_use=round(sum(use) / len(use), 3) if use else None,
            cpu_ms_per_text={name: round(1000 * used / (passed["texts"] or 1), 4) for name, used in cpu.items()},
            busy={name: round(share, 3) for name, share in busy.items()},
            limit=max(busy, key=lambda name: busy[name]),
        )
        return float(said["texts_per_s"])


def _write_repository(settings: GpuSettings, place: Path, layout: Layout) -> None:
    tokenizer, graph = settings.work / "tokenizer.json", settings.work / "served.onnx"
    roberta_tokenizer().save(str(tokenizer))
    graph.unlink(missing_ok=True)
    os.link(graphs.path_of(settings, graphs.SERVED), graph)
    shape = Shape(LABELS, 512, "softmax", "cpu" if settings.dry else "gpu")
    place.mkdir()
    parts = repository.Parts(graph, tokenizer, sample_rows(tokenizer, shape.model_max_length))
    names = Names()
    repository.assemble(place, names, shape, parts, version=1)
    for name, count in zip((names.tokenizer, names.classifier), layout, strict=True):
        path = place / name / "config.pbtxt"
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        del config.instance_group[1:]
        config.instance_group[0].count = count
        config.parameters.pop("instances_per_core", None)
        config.parameters.pop("rows_per_run", None)
        path.write_text(text_format.MessageToString(config), encoding="utf-8")


def _cpu_s(pids: Sequence[int]) -> dict[str, float]:
    """CPU time so far of Triton and of each other part, seconds; `pids` are theirs or those of their parents."""
    spent = dict.fromkeys((*PARTS, "tritonserver"), 0.0)
    roots = [psutil.Process(pid) for pid in pids]
    for process in {*roots, *(child for root in roots for child in root.children(recursive=True))}:
        with contextlib.suppress(psutil.Error):
            line, times = " ".join(process.cmdline()), process.cpu_times()
            part = next((name for name, held in PARTS.items() if held in line), "tritonserver")
            spent[part] += times.user + times.system
    return spent


def _by_program(address: str, load: Load, sent: Path) -> dict[str, Any]:
    """Have the load generator in C++ send the load."""
    how = ["--rate", f"{load.rate:.2f}"] if load.rate else ["--concurrency", str(load.concurrency)]
    channels = min(8, load.concurrency or 8)
    how += ["--batch", str(load.batch), "--channels", str(channels)]
    said = run_loadgen(address, sent, load.seconds, load.warm_s, *how)
    latency = said["latency_ms"] or {}
    return {
        "texts_per_s": round(said["texts_per_s"], 1),
        "seconds": said["seconds"],
        "failed": sum(said["failed"].values()),
        "failed_by_code": said["failed"],
        **{f"{name}_ms": latency.get(name) for name in ("p50", "p99")},
        "generator": "C++",
        "generator_cpu_s": said["cpu_s"],
    }


def by_python(caller: OpenCaller, load: Load) -> dict[str, Any]:
    """Have the load generator in Python send it, which some thousand requests a second keep busy."""
    import numpy as np

    with Generator(caller) as generator:
        result = generator.run(load, np.zeros((len(load.texts), len(LABELS))))
    recorded = result.recorded
    inside = (recorded.done >= recorded.begin) & (recorded.done <= recorded.end)
    seconds = recorded.end - recorded.begin
    spent = (recorded.done - recorded.due)[inside] * 1000
    return {
        "texts_per_s": round(float(recorded.texts[inside].sum()) / seconds, 1),
        "seconds": round(seconds, 2),
        "failed": recorded.failed,
        **{f"p{share}_ms": round(float(np.percentile(spent, share)), 3) if len(spent) else None for share in (50, 99)},
        "generator": "Python",
        "generator_cpu_s": result.cpu_s,
    }


@contextlib.contextmanager
def _gpu_use(dry: bool) -> Iterator[list[float]]:
    """Shares of time that the GPU ran a kernel, a sample each half second, as NVIDIA's library says."""
    found: list[float] = []
    if dry:
        yield found
        return
    done = threading.Event()

    def sample() -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not done.wait(0.5):
            with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
                answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=5)
                found.append(float(answer.stdout.splitlines()[0]) / 100)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
