"""How the peers are called."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench.contract import Caller

CALL_TIMEOUT_S = 300.0
"""Generous: under overload a peer's queue may hold minutes of work, and a late answer is a figure too."""


class CallError(RuntimeError):
    """A peer refused a request or answered something else; the message has what it said."""


@dataclass(frozen=True)
class HttpCaller:
    """POST of JSON to `url`."""

    url: str
    labels: tuple[str, ...]

    def body(self, texts: Sequence[str]) -> Any:
        """What is posted for `texts`."""
        return {"texts": list(texts)}

    def probabilities(self, answer: Any) -> NDArray[np.float32]:
        """Float32 [texts, labels] out of a decoded answer."""
        return np.asarray(answer["probabilities"], np.float32)

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Caller]:
        """Open the caller: as many connections as there are calls in flight, each kept alive."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

            async def call(texts: Sequence[str]) -> NDArray[np.float32]:
                async with session.post(self.url, json=self.body(texts)) as response:
                    payload = await response.read()
                if response.status != 200:
                    raise CallError(f"{self.url} answered {response.status}: {payload[:300].decode(errors='replace')}")
                return self.probabilities(json.loads(payload))

            yield call


class PipelineCaller(HttpCaller):
    """Answered as a `transformers` pipeline answers: a list of label and score for each text."""

    def probabilities(self, answer: Any) -> NDArray[np.float32]:
        """Float32 [texts, labels] out of a decoded answer."""
        return by_label(answer, self.labels)


class InfinityCaller(HttpCaller):
    """infinity's own `/classify`."""

    def body(self, texts: Sequence[str]) -> Any:
        """What is posted for `texts`."""
        return {"model": "classifier", "input": list(texts)}

    def probabilities(self, answer: Any) -> NDArray[np.float32]:
        """Float32 [texts, labels] out of a decoded answer."""
        return by_label(answer["data"], self.labels)


class TeiCaller(PipelineCaller):
    """Text Embeddings Inference's `/predict`, as its OpenAPI description has it."""

    def body(self, texts: Sequence[str]) -> Any:
        """What is posted for `texts`: a list of each, for two texts in one would be a pair."""
        return {"inputs": [[text] for text in texts], "truncate": True}


@dataclass(frozen=True)
class V2Caller:
    """gRPC, Open Inference Protocol (V2), as MLServer's Hugging Face runtime takes it."""

    address: str
    labels: tuple[str, ...]

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Caller]:
        """Open a channel."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

            async def call(texts: Sequence[str]) -> NDArray[np.float32]:
                request = service_pb2.ModelInferRequest(model_name="classifier")
                tensor = request.inputs.add(name="array_inputs", datatype="BYTES", shape=[len(texts)])
                tensor.parameters["content_type"].string_param = "str"
                tensor.contents.bytes_contents.extend(text.encode() for text in texts)
                answer = await stub.ModelInfer(request, timeout=CALL_TIMEOUT_S)
                return by_label(map(json.loads, answer.outputs[0].contents.bytes_contents), self.labels)

            yield call


def by_label(rows: Any, labels: Sequence[str]) -> NDArray[np.float32]:
    """Float32 [texts, labels] out of a pipeline's answer, whose scores come best first.

    Raises:
        CallError: A row does not hold each label once.
    """
    table = []
    for row in rows:
        scores = {entry["label"]: entry["score"] for entry in row}
        if len(row) != len(labels) or set(scores) != set(labels):
            raise CallError(f"expected a score for each of {', '.join(labels)}, was answered {row}")
        table.append([scores[label] for label in labels])
    return np.asarray(table, np.float32)
