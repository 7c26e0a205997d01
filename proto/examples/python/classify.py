"""Tell refusals from answers, with nothing but grpcio and the stubs that scripts/proto generates.

This program talks to the server as any language would; for Python there is also the package in client/.
"""
# ruff: noqa: T201  # a command prints

import argparse
import io
import json
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import grpc
from inference_pb2 import ModelConfigRequest, ModelInferRequest, ModelInferResponse
from inference_pb2_grpc import GRPCInferenceServiceStub

# gRPC retries on its own: only when the server refused the work (its queue is full) or could not be reached, three
# attempts at most, and none while more than half of the recent calls fail, so that retries never feed an overload.
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}

ADVICE = {
    grpc.StatusCode.INVALID_ARGUMENT: "the request is at fault: correct it, sending it again will not help",
    grpc.StatusCode.NOT_FOUND: "the server runs but has no such model: check --model",
    grpc.StatusCode.UNAVAILABLE: "no connection, or the queue is full: check --address, or try again in a while",
    grpc.StatusCode.DEADLINE_EXCEEDED: "no answer in time: allow more with --timeout, or send fewer texts at once",
}
OTHERWISE = "the server or something before it failed: look at the server's log"


def main() -> int:
    """Classify the texts of the command line; returns the exit code."""
    options = parse()
    try:
        with connect(options.address, options.tls) as channel:
            stub = GRPCInferenceServiceStub(channel)  # one connection for every call of the process
            labels = read_labels(stub, options)
            positive = read_positive_label(stub, options)
            for texts in batches(read_texts(options.texts), options.batch):
                request = infer_request(options.model, texts, options.max_length)
                answer = stub.ModelInfer(request, timeout=options.timeout)
                print_rows(texts, labels, positive, outputs(answer))
    except grpc.RpcError as error:
        code = error.code()
        print(f"classify: {code.name}: {error.details()}\n  {ADVICE.get(code, OTHERWISE)}", file=sys.stderr)
        return 1
    return 0


def connect(address: str, certificates: bytes | None) -> grpc.Channel:
    """A channel: connects on first use, by TLS if there are certificates to trust, and again when it has to."""
    settings = [("grpc.service_config", json.dumps(SERVICE_CONFIG))]
    if certificates is None:
        return grpc.insecure_channel(address, settings)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(certificates), settings)


def infer_request(model: str, texts: list[bytes], max_length: int | None) -> ModelInferRequest:
    """Ask for the probabilities and token counts of some texts."""
    request = ModelInferRequest(model_name=model)
    request.inputs.add(name="text", datatype="BYTES", shape=[len(texts), 1])
    # A string tensor: each text's length in bytes, uint32 little-endian, then its bytes.
    request.raw_input_contents.append(b"".join(struct.pack("<I", len(text)) + text for text in texts))
    if max_length is not None:
        request.inputs.add(name="max_length", datatype="INT32", shape=[len(texts), 1])
        request.raw_input_contents.append(struct.pack("<i", max_length) * len(texts))
    request.outputs.add(name="probabilities")
    request.outputs.add(name="token_count")
    return request


def read_labels(stub: GRPCInferenceServiceStub, options: argparse.Namespace) -> list[str]:
    """Label names by index: the classification extension gives a text's labels as "SCORE:INDEX:LABEL", best first."""
    request = infer_request(options.model, [b"label names"], None)
    request.outputs[0].parameters["classification"].int64_param = 1000  # at most so many labels
    raw = outputs(stub.ModelInfer(request, timeout=options.timeout))["probabilities"]
    names = {}
    while raw:
        (size,) = struct.unpack_from("<I", raw)
        _, index, name = raw[4 : 4 + size].decode().split(":", 2)
        names[int(index)] = name
        raw = raw[4 + size :]
    return [names[index] for index in sorted(names)]


def read_positive_label(stub: GRPCInferenceServiceStub, options: argparse.Namespace) -> str | None:
    """Name of the label that means a refusal, None for a model that has none."""
    answer = stub.ModelConfig(ModelConfigRequest(name=options.model), timeout=options.timeout)
    return answer.config.parameters["positive_label"].string_value or None


def outputs(answer: ModelInferResponse) -> dict[str, bytes]:
    """Bytes of each output by name; their order is the server's own."""
    return {output.name: raw for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)}


def print_rows(texts: list[bytes], labels: list[str], positive: str | None, answer: dict[str, bytes]) -> None:
    """One JSON object a line; `label` is the best one, and `score` that of the positive one, if the model has one."""
    rows = struct.iter_unpack(f"<{len(labels)}f", answer["probabilities"])
    counts = struct.unpack(f"<{len(texts)}i", answer["token_count"])
    for text, row, count in zip(texts, rows, counts, strict=True):
        scores = dict(zip(labels, row, strict=True))
        line = {
            "label": max(labels, key=scores.__getitem__),
            **({} if positive is None else {"score": scores[positive]}),
            "scores": scores,
            "token_count": count,
            "text": text.decode(),
        }
        print(json.dumps(line, ensure_ascii=False))


def read_texts(arguments: list[str]) -> Iterator[bytes]:
    """The arguments, or without any the lines of standard input; bytes as they are, which the server checks."""
    if arguments:
        yield from map(os.fsencode, arguments)
    else:
        for line in sys.stdin.buffer:
            yield line.removesuffix(b"\n")


def batches(texts: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Cut texts into requests."""
    texts = iter(texts)
    while batch := list(islice(texts, size)):
        yield batch


def pem(path: str) -> bytes:
    """Read a file of certificates."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error.strerror}") from error


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="classify")
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    parser.add_argument("--address", default="127.0.0.1:8001", metavar="HOST:PORT")
    parser.add_argument("--model", default="rejection")
    parser.add_argument("--timeout", type=float, default=10, metavar="SECONDS", help="deadline of each request")
    parser.add_argument("--max-length", type=int, metavar="TOKENS", help="truncate each text")
    parser.add_argument("--batch", type=int, default=64, metavar="TEXTS", help="most texts in one request")
    parser.add_argument("--tls", type=pem, metavar="FILE", help="connect by TLS, trusting these PEM certificates")
    return parser.parse_args()


if __name__ == "__main__":
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(encoding="utf-8")
    sys.exit(main())
