"""This server as a target: the embedded Triton with a model repository, called over gRPC; and what Triton counts."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench.contract import Caller, Target
from bench.plan import OURS
from rejection_client.protocol import infer_request, raw_output
from rejection_server.host.options import ServeOptions
from rejection_server.host.server import Server

TITLE = "this server"
CALL_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class TritonCaller:
    """Calls the ensemble with a bare stub: little that is Python's stands between the request and the figure."""

    address: str

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[Caller]:
        """Open a channel."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

            async def call(texts: Sequence[str]) -> NDArray[np.float32]:
                request = infer_request("rejection", texts, outputs=("probabilities",))
                answer = await stub.ModelInfer(request, timeout=CALL_TIMEOUT_S)
                return np.frombuffer(raw_output(answer, "probabilities", "FP32"), np.float32).reshape(len(texts), -1)

            yield call


@dataclass(frozen=True, slots=True)
class Running:
    """The started server: what the load generator takes, and Triton's own counts."""

    target: Target
    address: str
    direct: str
    """Triton's own address, behind the guard."""
    counts: Callable[[], "Counts"]
    repository: Path


@contextlib.contextmanager
def started(
    repository: Path,
    report: Callable[[str], None],
    arguments: Sequence[str] = (),
    *,
    cache: bool = False,
    cores: int | None = None,
) -> Iterator[Running]:
    """The embedded Triton on free ports, with a repository, until the block ends; sized for `cores` if they are given.

    Without its response cache unless asked for: texts come again and again, and what is measured is the model's rate.
    """
    report(f"{TITLE}: starting")
    options: dict[str, Any] = {} if cache else {"cache_bytes": 0}
    given = ServeOptions(
        repository=repository,
        grpc_port=0,
        metrics_port=None,
        cores=cores,
        triton_arguments=tuple(arguments),
        **options,
    )
    with Server(given, on_log=lambda _: None) as server, grpc.insecure_channel(server.grpc_address) as channel:
        ask = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStatistics

        def counts() -> Counts:
            answer = ask(service_pb2.ModelStatisticsRequest(), timeout=30)
            return {model.name: _counts(model) for model in answer.model_stats}

        target = Target(OURS, server.pids, TritonCaller(server.grpc_address))
        yield Running(target, server.grpc_address, server.triton_address, counts, repository)


Counts = Mapping[str, Mapping[str, int]]
"""Triton's statistics since its start, by model; times in nanoseconds, `batch N` executions of N texts,
`executing` the time of all executions."""


def _counts(model: Any) -> dict[str, int]:
    stats = model.inference_stats
    return {
        # An answer out of the response cache is a success as well.
        "requests": stats.success.count,
        "texts": model.inference_count,
        "executions": model.execution_count,
        "cache_hits": stats.cache_hit.count,
        "total": stats.success.ns,
        "queue": stats.queue.ns,
        "input": stats.compute_input.ns,
        "infer": stats.compute_infer.ns,
        "output": stats.compute_output.ns,
        **{f"batch {entry.batch_size}": entry.compute_infer.count for entry in model.batch_stats},
        "executing": sum(
            entry.compute_input.ns + entry.compute_infer.ns + entry.compute_output.ns for entry in model.batch_stats
        ),
    }


def per_request_ms(before: Counts, after: Counts) -> dict[str, dict[str, Any]]:
    """What happened in each model in between: mean times of a request, milliseconds, and how full executions were."""
    result = {}
    for name, counts in after.items():
        window = {key: count - before.get(name, {}).get(key, 0) for key, count in counts.items()}
        if not (requests := window["requests"]):
            continue
        batches = {key.removeprefix("batch "): count for key, count in window.items() if key.startswith("batch ")}
        result[name] = {
            **{key: round(window[key] / requests / 1e6, 4) for key in ("total", "queue", "input", "infer", "output")},
            **{key: window[key] for key in ("requests", "executions", "cache_hits")},
            "texts_per_execution": round(window["texts"] / (window["executions"] or 1), 2),
            "batches": {size: count for size, count in batches.items() if count},
        }
    return result
