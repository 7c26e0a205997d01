"""The same few servers in earnest: this server, Envoy in front, and a classifier that only takes its time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.fleet.events import Pod
from bench.fleet.ways import LOST, Call
from bench.ports import free_ports
from rejection_server import MODEL_REPOSITORY
from rejection_server.host.options import ServeOptions
from rejection_server.host.server import Server

Floats = NDArray[np.float64]

_CONFIG = """\
name: "classifier"
backend: "python"
max_batch_size: 64
input [ {{ name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] allow_ragged_batch: true }} ]
output [
  {{ name: "probabilities" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }},
  {{ name: "logits" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }}
]
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
parameters [
  {{ key: "fixed_s" value: {{ string_value: "{fixed_s}" }} }},
  {{ key: "token_s" value: {{ string_value: "{token_s}" }} }}
]
dynamic_batching {{ preferred_batch_size: [ {batch} ] max_queue_delay_microseconds: 0 }}
"""


def sleeping_repository(folder: Path, pod: Pod) -> Path:
    """The bundled model repository with a classifier that takes `pod`'s times, in a new folder."""
    repository = folder / "repository"
    shutil.copytree(MODEL_REPOSITORY, repository, ignore=shutil.ignore_patterns("__pycache__", "model.onnx"))
    classifier = repository / "classifier"
    (classifier / "config.pbtxt").write_text(
        _CONFIG.format(instances=pod.instances, fixed_s=pod.fixed_s, token_s=pod.token_s, batch=pod.batch)
    )
    shutil.copy(Path(__file__).with_name("sleeping.py"), classifier / "1" / "model.py")
    return repository


class Fleet:
    """Equal servers on ports of their own, any of which may die and come back; closed by a `with` block."""

    def __init__(self, options: ServeOptions, count: int) -> None:
        self._options = options
        self._ports = free_ports(count)
        with ThreadPoolExecutor(count) as pool:
            self.servers = list(pool.map(self._started, self._ports))

    @property
    def addresses(self) -> list[str]:
        """HOST:PORT of each, the same after a restart."""
        return [f"127.0.0.1:{port}" for port in self._ports]

    def _started(self, port: int) -> Server:
        server = Server(replace(self._options, grpc_port=port, metrics_port=None), on_log=lambda _: None)
        server.start()
        return server

    def restart(self, index: int) -> None:
        """Stop one as a supervisor does, which lets it answer what it has, unless it is dead; then start it again."""
        self.servers[index].stop()
        self.servers[index] = self._started(self._ports[index])

    def signal(self, index: int, number: signal.Signals) -> None:
        """Send a signal to every process of one."""
        for pid in self.servers[index].pids:
            os.kill(pid, number)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *error: object) -> None:
        for server in self.servers:
            server.kill()
        for server in self.servers:
            server.wait()


async def latencies(calls: Sequence[Call], texts: Sequence[str], arrivals_s: Sequence[float]) -> Floats:
    """Seconds [texts] from when each was due to its answer, NaN for a failed one; sent on time, by `calls` in turn."""
    found = np.full(len(texts), np.nan)
    begin = time.monotonic() + 0.2

    async def one(index: int) -> None:
        with contextlib.suppress(*LOST):
            await calls[index % len(calls)](texts[index])
            found[index] = time.monotonic() - begin - arrivals_s[index]

    async with asyncio.TaskGroup() as tasks:
        for index, at in enumerate(arrivals_s):
            await asyncio.sleep(max(0.0, begin + at - time.monotonic()))
            tasks.create_task(one(index))
    return found
