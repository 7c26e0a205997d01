"""The wire, without a client library of ours: requests and answers as the protocol defines them."""

import struct
import time
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

DTYPES = {"FP32": np.float32, "INT32": np.int32}


def string_bytes(texts: Sequence[str | bytes]) -> bytes:
    """Raw contents of a BYTES tensor: each element with its length in front, 4 bytes, little-endian."""
    encoded = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def request(
    texts: Sequence[str | bytes],
    max_length: int | Sequence[int] | None = None,
    model: str = "rejection",
    outputs: Sequence[str] = (),
    shape: Sequence[int] | None = None,
) -> service_pb2.ModelInferRequest:
    """An inference request for texts (str or bytes), with one `max_length` for all or one for each."""
    message = service_pb2.ModelInferRequest(model_name=model)
    message.inputs.add(name="text", datatype="BYTES", shape=shape or [len(texts), 1])
    message.raw_input_contents.append(string_bytes(texts))
    if max_length is not None:
        lengths = [max_length] * len(texts) if isinstance(max_length, int) else max_length
        message.inputs.add(name="max_length", datatype="INT32", shape=[len(texts), 1])
        message.raw_input_contents.append(np.array(lengths, np.int32).tobytes())
    for name in outputs:
        message.outputs.add(name=name)
    return message


def arrays(response: service_pb2.ModelInferResponse) -> dict[str, NDArray[Any]]:
    """Outputs by name."""
    return {
        output.name: np.frombuffer(raw, DTYPES[output.datatype]).reshape(output.shape)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


class Wire:
    """One channel to a server, with gRPC's `options` for it."""

    def __init__(self, address: str, options: Sequence[tuple[str, Any]] = ()) -> None:
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.insecure_channel(address, options=[*unlimited, *options])
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def infer(self, texts: Sequence[str | bytes], *args: Any, **kwargs: Any) -> dict[str, NDArray[Any]]:
        return arrays(self.stub.ModelInfer(request(texts, *args, **kwargs), timeout=30))

    def send(self, message: service_pb2.ModelInferRequest) -> Any:
        """Start a request; its result comes with `.result()`."""
        return self.stub.ModelInfer.future(message, timeout=60)

    def error(self, message: service_pb2.ModelInferRequest) -> tuple[grpc.StatusCode, str]:
        """Code and message of the error that a request must meet."""
        try:
            self.stub.ModelInfer(message, timeout=30)
        except grpc.RpcError as error:
            return error.code(), error.details()
        raise AssertionError("the request was answered")

    def settled_statistics(self, model: str) -> Any:
        """Statistics once they stand still: Triton books an execution just after it has answered."""
        readings: list[Any] = []
        while len(readings) < 3 or not readings[-3] == readings[-2] == readings[-1]:
            time.sleep(0.5)
            readings.append(self.statistics(model))
        return readings[-1]

    def statistics(self, model: str) -> Any:
        answer = self.stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name=model), timeout=10)
        return answer.model_stats[0]
