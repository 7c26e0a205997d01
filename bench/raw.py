"""onnxruntime in process, without any server: the limit of what serving can reach on a machine.

Token ids are made beforehand, so not even tokenising is counted. Workers run texts one after another, each worker alone
on one core; several layouts are tried, and the fastest is the limit.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.figures import Recorded
from bench.models import session

NAME = "raw-onnxruntime"
TITLE = "onnxruntime in process"
START_S = 180.0


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to run the model by hand."""

    name: str
    graph: Path
    served: bool
    """Whether the graph is the ragged one that this server serves; else the padded one."""
    processes: int
    workers: int
    """Threads in each process that run the session; each run uses `threads` threads."""
    threads: int
    rows: int = 1
    """Texts in an execution."""


def layouts(padded: Path, served: Path, cores: int, *, every: bool) -> list[Layout]:
    """What is tried: always a process a core, on either graph; with `every`, other layouts too."""
    chosen = [
        Layout("padded graph, a process a core", padded, False, cores, 1, 1),
        Layout("served graph, a process a core", served, True, cores, 1, 1),
    ]
    if every:
        chosen += [
            Layout("padded graph, one process, a worker a core", padded, False, 1, cores, 1),
            Layout("served graph, a process a core, 8 texts together", served, True, cores, 1, 1, rows=8),
            Layout("padded graph, one worker, a thread a core", padded, False, 1, 1, cores),
        ]
    return chosen


def run(layout: Layout, ids: Sequence[Sequence[int]], seconds: float, warm_s: float) -> tuple[Recorded, float, float]:
    """Run the layout for a while; returns what was done, and the window in seconds of `time.monotonic`."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for index in range(layout.processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(theirs, layout, ids, index), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        for pipe in pipes:
            if not pipe.poll(START_S):
                raise RuntimeError(f"onnxruntime did not load {layout.graph.name} within {START_S:g} s")
            pipe.recv()
        begin = time.monotonic() + warm_s
        end = begin + seconds
        for pipe in pipes:
            pipe.send(end)
        times = [entry for pipe in pipes for entry in pipe.recv()]
    finally:
        for process in processes:
            process.kill()
            process.join()
    started, done, texts = (np.asarray(column) for column in zip(*times, strict=True))
    return Recorded(started, done, texts.astype(np.int64)), begin, end


def _worker(pipe: Connection, layout: Layout, ids: Sequence[Sequence[int]], index: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    model = session(layout.graph, layout.threads)
    run_once(model, ids[:1], served=layout.served)
    pipe.send(None)
    end = pipe.recv()
    times: list[tuple[float, float, int]] = []
    threads = [
        threading.Thread(target=_work, args=(model, layout, ids, index * layout.workers + worker, end, times))
        for worker in range(layout.workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send(times)
    pipe.close()
    os._exit(0)


def _work(model: Any, layout: Layout, ids: Sequence[Sequence[int]], worker: int, end: float, times: list[Any]) -> None:
    workers = layout.processes * layout.workers
    position = worker
    while True:
        begin = time.monotonic()
        if begin >= end:
            return
        rows = [ids[(position + offset * workers) % len(ids)] for offset in range(layout.rows)]
        run_once(model, rows, served=layout.served)
        times.append((begin, time.monotonic(), layout.rows))
        position += layout.rows * workers


def run_once(model: Any, rows: Sequence[Sequence[int]], *, served: bool) -> NDArray[np.float32]:
    """Logits [texts, labels] of one execution; the padded graph takes one text at a time."""
    if served:
        lengths = np.asarray([[len(row)] for row in rows], np.int32)
        feed = {"input_ids": np.concatenate([np.asarray(row, np.int64) for row in rows]), "sequence_lengths": lengths}
    else:
        tokens = np.asarray(rows, np.int64)
        feed = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
        wanted = {value.name for value in model.get_inputs()}
        feed = {name: value for name, value in feed.items() if name in wanted}
    (logits,) = model.run(["logits"], feed)
    result: NDArray[np.float32] = logits
    return result


def probabilities(graph: Path, ids: Sequence[Sequence[int]], *, served: bool = False) -> NDArray[np.float64]:
    """Probabilities [texts, labels], each text alone: with the padded float32 graph, the reference of all systems."""
    model = session(graph)  # one thread: several wait for each other on a busy machine
    logits = np.concatenate([run_once(model, [row], served=served) for row in ids]).astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
