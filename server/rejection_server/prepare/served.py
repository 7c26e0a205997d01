"""What the finished repository answers: started on the embedded Triton and asked over gRPC."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from rejection_server.host import HostError, ServeOptions, Server
from rejection_server.prepare.errors import PrepareError

BATCH = 8
"""Texts of a request; of different lengths, so that filling up and joining are tried too."""
STARTUP_S = 600.0
ANSWER_S = 300.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """Answers of the server, one row a text."""

    probabilities: Floats
    token_counts: tuple[int, ...]


def ask(repository: Path, texts: Sequence[str], *, on_wait: Callable[[float], None] | None = None) -> Answers:
    """Start Triton with the repository and ask it all texts.

    Raises PrepareError when it does not start or does not answer.
    """
    options = ServeOptions(
        repository=repository, grpc_port=0, metrics_port=None, startup_timeout_s=STARTUP_S, log_level="warning"
    )
    try:
        with Server(options, on_wait=on_wait) as server:
            return _ask(server.grpc_address, texts)
    except HostError as exc:
        raise PrepareError(f"the prepared repository does not start: {exc}") from exc
    except grpc.RpcError as exc:
        raise PrepareError(f"the prepared repository does not answer: {exc.details()}") from exc


def _ask(address: str, texts: Sequence[str]) -> Answers:
    probabilities: list[Floats] = []
    counts: list[int] = []
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        # All at once: Triton queues them, so that its batcher joins requests as it does under load.
        pending = [
            stub.ModelInfer.future(_request(texts[start : start + BATCH]), timeout=ANSWER_S)
            for start in range(0, len(texts), BATCH)
        ]
        for call in pending:
            answer = _arrays(call.result())
            probabilities.append(answer["probabilities"].astype(np.float64))
            counts += answer["token_count"].ravel().tolist()
    return Answers(np.concatenate(probabilities), tuple(counts))


def _request(texts: Sequence[str]) -> Any:
    message = service_pb2.ModelInferRequest(model_name="rejection")
    message.inputs.add(name="text", datatype="BYTES", shape=[len(texts), 1])
    encoded = [text.encode() for text in texts]
    message.raw_input_contents.append(b"".join(struct.pack("<I", len(text)) + text for text in encoded))
    for name in ("probabilities", "token_count"):
        message.outputs.add(name=name)
    return message


def _arrays(response: Any) -> dict[str, NDArray[Any]]:
    kinds = {"FP32": np.float32, "INT32": np.int32}
    return {
        output.name: np.frombuffer(raw, kinds[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
