"""The same few servers in earnest: this server, Envoy in front, and a classifier that only takes its time."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2_grpc

from bench.fleet.events import Pod
from rejection_client.protocol import infer_request
from rejection_server import MODEL_REPOSITORY
from rejection_server.host.options import ServeOptions
from rejection_server.host.server import Server

Floats = NDArray[np.float64]
CALL_TIMEOUT_S = 120.0

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


@contextlib.contextmanager
def servers(repository: Path, count: int) -> Iterator[list[Server]]:
    """So many servers of the repository, on free ports of this machine, without a response cache."""
    options = ServeOptions(repository=repository, grpc_port=0, metrics_port=None, cache_bytes=0)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Server(options, on_log=lambda _: None)) for _ in range(count)]


def latencies(address: str, texts: Sequence[str], arrivals_s: Sequence[float]) -> Floats:
    """Seconds [texts] from when each was due to its answer, NaN for a failed one; one call a text, on time."""
    return asyncio.run(_send(address, texts, arrivals_s))


async def _send(address: str, texts: Sequence[str], arrivals_s: Sequence[float]) -> Floats:
    found = np.full(len(texts), np.nan)
    async with grpc.aio.insecure_channel(address) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        begin = time.monotonic() + 0.2

        async def one(index: int) -> None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                request = infer_request("rejection", [texts[index]], outputs=("probabilities",))
                await infer(request, timeout=CALL_TIMEOUT_S)
                found[index] = time.monotonic() - begin - arrivals_s[index]

        tasks = []
        for index, at in enumerate(arrivals_s):
            await asyncio.sleep(max(0.0, begin + at - time.monotonic()))
            tasks.append(asyncio.create_task(one(index)))
        await asyncio.gather(*tasks)
    return found
