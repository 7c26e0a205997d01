"""The wire, without a client library of ours: requests and answers as the protocol defines them."""

import struct
import time

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

DTYPES = {"FP32": np.float32, "INT32": np.int32}


def string_bytes(texts):
    """Raw contents of a BYTES tensor: each element with its length in front, 4 bytes, little-endian."""
    encoded = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def request(texts, max_length=None, model="rejection", outputs=(), shape=None):
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


def arrays(response):
    """Outputs by name."""
    return {
        output.name: np.frombuffer(raw, DTYPES[output.datatype]).reshape(output.shape)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


class Wire:
    """One channel to a server."""

    def __init__(self, address) -> None:
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.insecure_channel(address, options=unlimited)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def infer(self, texts, *args, **kwargs):
        return arrays(self.stub.ModelInfer(request(texts, *args, **kwargs), timeout=30))

    def send(self, message):
        """Start a request; its result comes with `.result()`."""
        return self.stub.ModelInfer.future(message, timeout=60)

    def error(self, message):
        """Code and message of the error that a request must meet."""
        try:
            self.stub.ModelInfer(message, timeout=30)
        except grpc.RpcError as error:
            return error.code(), error.details()
        raise AssertionError("the request was answered")

    def settled_statistics(self, model):
        """Statistics once they stand still: Triton books an execution just after it has answered."""
        readings = []
        while len(readings) < 3 or not readings[-3] == readings[-2] == readings[-1]:
            time.sleep(0.5)
            readings.append(self.statistics(model))
        return readings[-1]

    def statistics(self, model):
        answer = self.stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name=model), timeout=10)
        return answer.model_stats[0]
