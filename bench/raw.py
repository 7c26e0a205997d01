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

from bench.contract import ModelFiles
from bench.figures import Floats, Recorded
from bench.models import session

TITLE = "onnxruntime in process"
START_S = 180.0


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to run the model by hand."""

    name: str
    graph: Path
    processes: int
    workers: int = 1
    """Threads in each process that run the session."""
    threads: int = 1
    """Threads of one run."""
    rows: int = 1
    """Texts in an execution."""


def layouts(model: ModelFiles, precision: str, cores: int, *, every: bool) -> list[Layout]:
    """What is tried: a process a core, on the served and on the padded graph; with `every`, other layouts too."""
    padded, served = model.graphs[precision], model.served(precision)
    tried = [Layout("served graph, a process a core", served, cores)]
    if every:
        tried.append(Layout("served graph, a process a core, 8 texts together", served, cores, rows=8))
    kind = "served" if padded == served else "padded"
    if padded != served:
        tried.append(Layout("padded graph, a process a core", padded, cores))
    if every:
        tried.append(Layout(f"{kind} graph, one process, a worker a core", padded, 1, workers=cores))
        tried.append(Layout(f"{kind} graph, one worker, a thread a core", padded, 1, threads=cores))
    return tried


def alone(layout: Layout) -> Layout:
    """One worker on the graph of a layout: its times are those of a text that nothing runs beside."""
    return Layout(f"{layout.name.split()[0]} graph, one worker alone", layout.graph, 1)


def run(layout: Layout, ids: Sequence[Sequence[int]], seconds: float, warm_s: float) -> Recorded:
    """Run the layout for a while."""
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
        for pipe in pipes:
            pipe.send(begin + seconds)
        times = [entry for pipe in pipes for entry in pipe.recv()]
    finally:
        for process in processes:
            process.kill()
            process.join()
    started, done = (np.asarray(column) for column in zip(*times, strict=True))
    return Recorded(started, done, np.full(len(done), layout.rows, np.int64), begin, begin + seconds)


def _worker(pipe: Connection, layout: Layout, ids: Sequence[Sequence[int]], index: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    model = session(layout.graph, layout.threads)
    run_once(model, ids[:1])
    pipe.send(None)
    end = pipe.recv()
    times: list[tuple[float, float]] = []

    def work(number: int) -> None:
        position, step = index * layout.workers + number, layout.processes * layout.workers
        while (begin := time.monotonic()) < end:
            run_once(model, [ids[(position + offset * step) % len(ids)] for offset in range(layout.rows)])
            times.append((begin, time.monotonic()))
            position += layout.rows * step

    threads = [threading.Thread(target=work, args=(number,)) for number in range(layout.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send(times)
    pipe.close()
    os._exit(0)


def run_once(model: Any, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Logits [texts, labels] of one execution of a served graph, or of a padded one, which takes one text at a time."""
    wanted = {value.name for value in model.get_inputs()}
    if "sequence_lengths" in wanted:
        lengths = np.asarray([[len(row)] for row in rows], np.int32)
        feed = {"input_ids": np.concatenate([np.asarray(row, np.int64) for row in rows]), "sequence_lengths": lengths}
    else:
        tokens = np.asarray(rows, np.int64)
        feed = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
    result: NDArray[np.float32] = model.run(["logits"], {name: feed[name] for name in wanted})[0]
    return result


def probabilities(graph: Path, ids: Sequence[Sequence[int]]) -> Floats:
    """Probabilities [texts, labels], each text alone."""
    model = session(graph)  # one thread: several wait for each other on a busy machine
    logits = np.concatenate([run_once(model, [row]) for row in ids]).astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
