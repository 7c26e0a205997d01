"""How the peers are called. Callers import what they need when they are opened: see `requirements-callers.in`."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.contract import Caller

CALL_TIMEOUT_S = 300.0
"""Generous: under overload a peer's queue may hold minutes of work, and a late answer is a figure too."""


class CallError(RuntimeError):
    """A peer refused a request or answered something else; the message has what it said."""


@dataclass(frozen=True, slots=True)
class HttpCaller:
    """POST of `{"texts": [...]}`, answered by `{"probabilities": [[...]]}`."""

    url: str

    def __call__(self) -> AbstractAsyncContextManager[Caller]:
        """Open the caller with its pool of connections."""
        return self._opened()

    def body(self, texts: Sequence[str]) -> object:
        """What is posted for `texts`."""
        return {"texts": list(texts)}

    def probabilities(self, answer: object) -> NDArray[np.float32]:
        """Float32 [texts, labels] out of a decoded answer."""
        return np.asarray(answer["probabilities"], np.float32)  # type: ignore[index]

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Caller]:
        import aiohttp

        # As many connections as there are calls in flight, each kept alive.
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S),
        ) as session:

            async def call(texts: Sequence[str]) -> NDArray[np.float32]:
                data = json.dumps(self.body(texts)).encode()
                headers = {"Content-Type": "application/json"}
                async with session.post(self.url, data=data, headers=headers) as response:
                    payload = await response.read()
                if response.status != 200:
                    raise CallError(f"{self.url} answered {response.status}: {payload[:300].decode(errors='replace')}")
                return self.probabilities(json.loads(payload))

            yield call


@dataclass(frozen=True, slots=True)
class PipelineCaller(HttpCaller):
    """As `HttpCaller`, but answered as a `transformers` pipeline answers: a list of label and score for each text."""

    labels: tuple[str, ...]

    def probabilities(self, answer: object) -> NDArray[np.float32]:
        """Float32 [texts, labels] out of a decoded answer."""
        return by_label(answer, self.labels)


@dataclass(frozen=True, slots=True)
class InfinityCaller(HttpCaller):
    """infinity's own `/classify`."""

    model: str
    labels: tuple[str, ...]

    def body(self, texts: Sequence[str]) -> object:
        """What is posted for `texts`."""
        return {"model": self.model, "input": list(texts)}

    def probabilities(self, answer: object) -> NDArray[np.float32]:
        """Float32 [texts, labels] out of a decoded answer."""
        return by_label(answer["data"], self.labels)  # type: ignore[index]


@dataclass(frozen=True, slots=True)
class V2Caller:
    """gRPC, Open Inference Protocol (V2), as MLServer's Hugging Face runtime takes it."""

    address: str
    model: str
    labels: tuple[str, ...]

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Caller]:
        """Open a channel."""
        import grpc
        from tritonclient.grpc import service_pb2

        async with grpc.aio.insecure_channel(self.address) as channel:
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=service_pb2.ModelInferRequest.SerializeToString,
                response_deserializer=service_pb2.ModelInferResponse.FromString,
            )

            async def call(texts: Sequence[str]) -> NDArray[np.float32]:
                request = service_pb2.ModelInferRequest(model_name=self.model)
                tensor = request.inputs.add(name="array_inputs", datatype="BYTES", shape=[len(texts)])
                tensor.parameters["content_type"].string_param = "str"
                tensor.contents.bytes_contents.extend(text.encode() for text in texts)
                answer = await infer(request, timeout=CALL_TIMEOUT_S)
                rows = [json.loads(row) for row in answer.outputs[0].contents.bytes_contents]
                return by_label(rows, self.labels)

            yield call


def by_label(rows: object, labels: Sequence[str]) -> NDArray[np.float32]:
    """Float32 [texts, labels] out of a pipeline's answer, whose scores come best first.

    Raises:
        CallError: A row does not hold each label once.
    """
    table = np.empty((len(rows), len(labels)), np.float32)  # type: ignore[arg-type]
    for number, row in enumerate(rows):  # type: ignore[arg-type, var-annotated]
        scores = {entry["label"]: entry["score"] for entry in row}
        if len(row) != len(labels) or set(scores) != set(labels):
            raise CallError(f"expected a score for each of {', '.join(labels)}, was answered {row}")
        table[number] = [scores[label] for label in labels]
    return table
