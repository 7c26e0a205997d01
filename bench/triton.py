"""This server as a target: the embedded Triton with a model repository, called over gRPC; and what Triton counts."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from bench.contract import Caller, Target
from rejection_server.host.options import ServeOptions
from rejection_server.host.server import Server

NAME = "rejection-server"
TITLE = "this server"
CALL_TIMEOUT_S = 300.0
MODELS = ("rejection", "tokenizer", "classifier")

_SERVICE = "/inference.GRPCInferenceService"


@dataclass(frozen=True, slots=True)
class TritonCaller:
    """Calls the ensemble with a bare stub: little that is Python's stands between the request and the figure."""

    address: str
    model: str = "rejection"

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[Caller]:
        """Open a channel."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            infer = channel.unary_unary(
                f"{_SERVICE}/ModelInfer",
                request_serializer=service_pb2.ModelInferRequest.SerializeToString,
                response_deserializer=service_pb2.ModelInferResponse.FromString,
            )

            async def call(texts: Sequence[str]) -> NDArray[np.float32]:
                answer = await infer(infer_request(self.model, texts), timeout=CALL_TIMEOUT_S)
                flat = np.frombuffer(answer.raw_output_contents[0], np.float32)
                return flat.reshape(len(texts), -1)

            yield call


def infer_request(model: str, texts: Sequence[str]) -> Any:
    """Request of the probabilities of some texts."""
    encoded = [text.encode() for text in texts]
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="text", datatype="BYTES", shape=[len(texts), 1])
    request.outputs.add(name="probabilities")
    request.raw_input_contents.append(b"".join(len(item).to_bytes(4, "little") + item for item in encoded))
    return request


@dataclass(frozen=True, slots=True)
class Running:
    """The started server: what the load generator takes, and where Triton's statistics are asked for."""

    target: Target
    address: str


@contextlib.contextmanager
def started(
    repository: Path, report: Callable[[str], None], arguments: Sequence[str] = (), *, cache: bool = False
) -> Iterator[Running]:
    """The embedded Triton on free ports, with a repository, until the block ends.

    Without its response cache unless asked for: texts come again and again, and what is measured is the model's rate.
    """
    report(f"{TITLE}: starting")
    options = ServeOptions(
        repository=repository,
        grpc_port=0,
        metrics_port=None,
        triton_arguments=tuple(arguments),
    )
    options = options if cache else replace(options, cache_bytes=0)
    with Server(options, on_log=lambda _: None) as server:
        target = Target(NAME, (server.pid,), TritonCaller(server.grpc_address))
        yield Running(target, server.grpc_address)


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """Triton's statistics of one model: so far, or of a window if one is taken from another; times in nanoseconds."""

    requests: int
    texts: int
    executions: int
    total_ns: int
    """From arrival to answer."""
    queue_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    batches: dict[int, int]
    """Executions by number of texts."""
    cache_hits: int

    def __sub__(self, other: "ModelCounts") -> "ModelCounts":
        gone = {field.name: getattr(other, field.name) for field in fields(self)}
        values = {name: getattr(self, name) - gone[name] for name in gone if name != "batches"}
        batches = {size: count - other.batches.get(size, 0) for size, count in self.batches.items()}
        return ModelCounts(**values, batches={size: count for size, count in batches.items() if count})


Counts = dict[str, ModelCounts]


class Statistics:
    """Asks Triton for its statistics."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._ask = self._channel.unary_unary(
            f"{_SERVICE}/ModelStatistics",
            request_serializer=service_pb2.ModelStatisticsRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStatisticsResponse.FromString,
        )

    def counts(self) -> Counts:
        """Counts of every model so far."""
        answer = self._ask(service_pb2.ModelStatisticsRequest(), timeout=30)
        return {model.name: _counts(model) for model in answer.model_stats}

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def since(before: Counts, after: Counts) -> Counts:
    """What happened in between."""
    return {name: counts - before[name] if name in before else counts for name, counts in after.items()}


def per_request_ms(counts: Counts) -> dict[str, dict[str, Any]]:
    """Mean times of a request in each model, milliseconds, with how full the executions were."""
    result = {}
    for name, model in counts.items():
        if not model.requests:
            continue
        times = {
            key: round(getattr(model, f"{key}_ns") / model.requests / 1e6, 4)
            for key in ("total", "queue", "input", "infer", "output")
        }
        result[name] = {
            **times,
            "requests": model.requests,
            "executions": model.executions,
            "texts_per_execution": round(model.texts / model.executions, 2) if model.executions else None,
            "batches": {str(size): count for size, count in sorted(model.batches.items())},
            "cache_hits": model.cache_hits,
        }
    return result


def _counts(model: Any) -> ModelCounts:
    stats = model.inference_stats
    return ModelCounts(
        # An answer out of the response cache is a success as well.
        requests=stats.success.count,
        texts=model.inference_count,
        executions=model.execution_count,
        total_ns=stats.success.ns,
        queue_ns=stats.queue.ns,
        input_ns=stats.compute_input.ns,
        infer_ns=stats.compute_infer.ns,
        output_ns=stats.compute_output.ns,
        batches={entry.batch_size: entry.compute_infer.count for entry in model.batch_stats},
        cache_hits=stats.cache_hit.count,
    )
