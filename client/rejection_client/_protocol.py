"""The messages of Triton's inference protocol that this client sends and reads; no network here.

Tensors travel as raw bytes: numbers little-endian, and each element of a BYTES tensor as its length (uint32) and its
bytes. See `text`, `max_length`, `probabilities` and `token_count` in the server's contract.
"""

import struct
from collections.abc import Sequence
from typing import Any

# The generated messages alone: Triton's own client class and its numpy tensors would be work done twice here.
from tritonclient.grpc import service_pb2

from rejection_client._prediction import Prediction
from rejection_client.errors import InvalidInputError, UnexpectedAnswerError

_LENGTH = struct.Struct("<I")
_INT32_MAX = 2**31 - 1
# More labels than any model has: the server answers with as many as there are.
_ALL_LABELS = 1_000_000


def infer_request(model: str, texts: Sequence[str], *, max_length: int | None = None, first_row: int = 0) -> Any:
    """Ask for the probabilities and token counts of `texts`, n rows in one request.

    Raises InvalidInputError for a text that UTF-8 cannot hold (a lone surrogate) and for a `max_length` that INT32
    cannot hold; `first_row` is the caller's index of the first text.
    """
    rows = len(texts)
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="text", datatype="BYTES", shape=(rows, 1))
    request.raw_input_contents.append(_bytes_tensor(texts, first_row))
    if max_length is not None:
        if not -_INT32_MAX - 1 <= max_length <= _INT32_MAX:
            raise InvalidInputError(f"max_length {max_length} is too large; give a number of tokens, or leave it out")
        request.inputs.add(name="max_length", datatype="INT32", shape=(rows, 1))
        request.raw_input_contents.append(struct.pack("<i", max_length) * rows)
    request.outputs.add(name="probabilities")
    request.outputs.add(name="token_count")
    return request


def labels_request(model: str) -> Any:
    """Ask for the label names: one short text, with its probabilities through Triton's classification extension."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="text", datatype="BYTES", shape=(1, 1))
    request.raw_input_contents.append(_bytes_tensor(["label names"], 0))
    request.outputs.add(name="probabilities").parameters["classification"].int64_param = _ALL_LABELS
    return request


def config_request(model: str) -> Any:
    """Ask for the model's configuration."""
    return service_pb2.ModelConfigRequest(name=model)


def live_request() -> Any:
    """Ask whether the server is alive, which says nothing of its models."""
    return service_pb2.ServerLiveRequest()


def read_labels(response: Any) -> tuple[str, ...]:
    """Label names in index order, from the answer to `labels_request`: elements like `0.93:1:REJECTION`, best first."""
    raw = _raw_output(response, "probabilities", "BYTES")
    names: dict[int, str] = {}
    start = 0
    while start < len(raw):
        end = start + _LENGTH.size + _LENGTH.unpack_from(raw, start)[0]
        _, index, *name = raw[start + _LENGTH.size : end].decode().split(":", 2)
        if not name:
            raise UnexpectedAnswerError(
                f"model '{response.model_name}' gives no label names; its output 'probabilities' needs a label_filename"
            )
        names[int(index)] = name[0]
        start = end
    if not names or sorted(names) != list(range(len(names))):
        raise UnexpectedAnswerError(f"model '{response.model_name}' numbers its labels {sorted(names)}, not 0, 1, ...")
    return tuple(names[index] for index in range(len(names)))


def read_predictions(response: Any, rows: int, labels: Sequence[str]) -> list[Prediction]:
    """One `Prediction` a row, from the answer to an `infer_request` of `rows` texts."""
    width = len(labels)
    floats = _unpack(_raw_output(response, "probabilities", "FP32"), "f", rows * width, "probabilities")
    counts = _unpack(_raw_output(response, "token_count", "INT32"), "i", rows, "token_count")
    predictions = []
    for row in range(rows):
        probabilities = floats[row * width : (row + 1) * width]
        predictions.append(
            Prediction(
                label=labels[probabilities.index(max(probabilities))],
                score=probabilities[-1],
                probabilities=dict(zip(labels, probabilities, strict=True)),
                token_count=counts[row],
            )
        )
    return predictions


def _bytes_tensor(texts: Sequence[str], first_row: int) -> bytes:
    parts = []
    for row, text in enumerate(texts, first_row):
        if not isinstance(text, str):
            raise TypeError(f"text row {row} is of type {type(text).__name__}, not str")
        try:
            encoded = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError(
                f"text row {row} cannot be sent as UTF-8: character {error.start} is a lone surrogate "
                "(half of a character, or a byte that was not UTF-8 when read); remove or replace it",
                row,
            ) from error
        parts.append(_LENGTH.pack(len(encoded)))
        parts.append(encoded)
    return b"".join(parts)


def _raw_output(response: Any, name: str, datatype: str) -> bytes:
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        if output.name == name and output.datatype == datatype:
            return bytes(raw)
    raise UnexpectedAnswerError(
        f"model '{response.model_name}' answers without the {datatype} tensor '{name}'; check the model's name"
    )


def _unpack(raw: bytes, code: str, count: int, name: str) -> tuple[Any, ...]:
    if len(raw) != 4 * count:
        raise UnexpectedAnswerError(
            f"the answer's tensor '{name}' has {len(raw)} bytes where {4 * count} belong; "
            "if the server changed its model, make a new client"
        )
    return struct.unpack(f"<{count}{code}", raw)
