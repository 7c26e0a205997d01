"""The messages of Triton's inference protocol: requests for texts, and what is read from the answers; no network here.

Tensors travel as raw bytes: numbers little-endian, and each element of a BYTES tensor as its length (uint32) and its
bytes. See `text`, `max_length`, `probabilities` and `token_count` in the server's contract.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# The generated messages alone: Triton's own client class and its numpy tensors would be work done twice here.
from tritonclient.grpc import service_pb2

from rejection_client._prediction import ModelInfo, Prediction
from rejection_client.errors import InvalidInputError, NoPositiveLabelError, UnexpectedAnswerError

_LENGTH = struct.Struct("<I")
_INT32_MAX = 2**31 - 1
# More labels than any model has: the server answers with as many as there are.
_ALL_LABELS = 1_000_000
_PARTS = ("scoring", "tokenizer", "classifier")
"""The last words of the names of a classifier's parts, and of no classifier's own."""


def infer_request(
    model: str,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    rows: Sequence[int] | None = None,
    outputs: Sequence[str] = ("probabilities", "token_count"),
) -> Any:
    """Ask for `outputs` of `texts`, n rows in one request; returns a `ModelInferRequest`.

    `rows` are the caller's indexes of the texts, for messages (0, 1, ... without). Raises InvalidInputError for a text
    that UTF-8 cannot hold (a lone surrogate) and for a `max_length` below 1 or beyond INT32.
    """
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="text", datatype="BYTES", shape=(len(texts), 1))
    request.raw_input_contents.append(bytes_tensor(_encoded(texts, rows)))
    if max_length is not None:
        if not 1 <= max_length <= _INT32_MAX:
            raise InvalidInputError(f"max_length is {max_length}; give a number of tokens from 1 up, or leave it out")
        request.inputs.add(name="max_length", datatype="INT32", shape=(len(texts), 1))
        request.raw_input_contents.append(struct.pack("<i", max_length) * len(texts))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def labels_request(model: str) -> Any:
    """Ask for the label names: one short text, with its probabilities through Triton's classification extension."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="text", datatype="BYTES", shape=(1, 1))
    request.raw_input_contents.append(bytes_tensor([b"label names"]))
    request.outputs.add(name="probabilities").parameters["classification"].int64_param = _ALL_LABELS
    return request


def config_request(model: str) -> Any:
    """Ask for the model's configuration."""
    return service_pb2.ModelConfigRequest(name=model)


def metadata_request(model: str) -> Any:
    """Ask for the model's versions."""
    return service_pb2.ModelMetadataRequest(name=model)


def server_request() -> Any:
    """Ask for the server's name and version."""
    return service_pb2.ServerMetadataRequest()


def ready_request(model: str) -> Any:
    """Ask whether the server would take requests for the model; it answers apart from the model's queue."""
    return service_pb2.ModelReadyRequest(name=model)


def index_request() -> Any:
    """Ask which models are ready."""
    return service_pb2.RepositoryIndexRequest(ready=True)


def read_index(response: Any) -> list[str]:
    """Names of the classifiers that are ready, from the answer to `index_request`.

    Raises UnexpectedAnswerError if it lists the parts of classifiers, too, as Triton does by itself.
    """
    names = list(dict.fromkeys(model.name for model in response.models if model.state == "READY"))
    for name in names:
        if name.rpartition("_")[2] in _PARTS:
            raise UnexpectedAnswerError(f"it lists '{name}', a part of a classifier, so it is Triton without a guard")
    return names


def step_models(config: Any) -> list[str]:
    """Names of the models that an ensemble is made of; none for any other model."""
    return [step.model_name for step in config.ensemble_scheduling.step]


def read_parameters(config: Any) -> dict[str, str]:
    """The parameters of a model's configuration that hold something."""
    return {name: value.string_value for name, value in config.parameters.items() if value.string_value}


def read_max_length(config: Any) -> int | None:
    """Tokens that the model reads, if its configuration has the parameter `model_max_length`."""
    value = read_parameters(config).get("model_max_length", "")
    return int(value) if value.isdecimal() and int(value) > 0 else None


def read_positive_label(config: Any, labels: Sequence[str], wanted: str | None) -> str | None:
    """The label that means a rejection: the one that is `wanted`, else the parameter `positive_label`.

    Raises NoPositiveLabelError if the model has no label of that name.
    """
    label = wanted if wanted is not None else read_parameters(config).get("positive_label")
    if label is not None and label not in labels:
        raise NoPositiveLabelError(
            f"model '{config.name}' has no label '{label}', which is to mean a rejection; it has {', '.join(labels)}"
        )
    return label


def read_labels(response: Any) -> tuple[str, ...]:
    """Label names in index order, from the answer to `labels_request`: elements like `0.93:1:REJECTION`, best first."""
    raw = raw_output(response, "probabilities", "BYTES")
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
    labels = tuple(names[index] for index in range(len(names)))
    if len(set(labels)) < len(labels):
        raise UnexpectedAnswerError(
            f"model '{response.model_name}' has two labels of one name ({', '.join(labels)}); give each a name of its "
            "own in id2label, and prepare the model again"
        )
    return labels


def read_predictions(response: Any, rows: int, model: ModelInfo, max_length: int | None = None) -> list[Prediction]:
    """One `Prediction` a row, from the answer to an `infer_request` of `rows` texts with that `max_length`."""
    labels = model.labels
    width = len(labels)
    limits = [limit for limit in (max_length, model.max_length) if limit is not None]
    limit = min(limits) if limits else None
    floats = _unpack(raw_output(response, "probabilities", "FP32"), "f", rows * width, "probabilities")
    counts = _unpack(raw_output(response, "token_count", "INT32"), "i", rows, "token_count")
    predictions = []
    for row in range(rows):
        scores = floats[row * width : (row + 1) * width]
        predictions.append(
            Prediction(
                label=labels[scores.index(max(scores))],
                scores=dict(zip(labels, scores, strict=True)),
                token_count=counts[row],
                truncated=None if limit is None else counts[row] > limit,
                positive_label=model.positive_label,
            )
        )
    return predictions


def bytes_tensor(elements: Iterable[bytes]) -> bytes:
    """Raw contents of a BYTES tensor: each element after its length."""
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def check_several(texts: Any, kinds: Any, wanted: str) -> None:
    """Raise TypeError for what is none of these kinds, `wanted` in words, and for one text alone."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, kinds):
        one = "; classify takes one text" if isinstance(texts, str) else ""
        raise TypeError(f"texts is of type {type(texts).__name__}, not {wanted} of str{one}")


def checked_texts(texts: Any) -> list[str]:
    """The texts as a list; raises TypeError for what is no sequence of texts, and for one text alone."""
    check_several(texts, Iterable, "a sequence")
    return [checked_text(text, row) for row, text in enumerate(texts)]


def checked_text(text: Any, row: int) -> str:
    """The text of that row itself; raises TypeError for what is none."""
    if not isinstance(text, str):
        raise TypeError(f"text row {row} is of type {type(text).__name__}, not str")
    return text


def _encoded(texts: Sequence[str], rows: Sequence[int] | None) -> Iterator[bytes]:
    for index, text in enumerate(texts):
        row = index if rows is None else rows[index]
        try:
            yield checked_text(text, row).encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError(
                f"text row {row} cannot be sent as UTF-8: character {error.start} is a lone surrogate "
                "(half of a character, or a byte that was not UTF-8 when read); remove or replace it",
                row,
            ) from error


def raw_output(response: Any, name: str, datatype: str) -> bytes:
    """Raw contents of the tensor `name`; raises UnexpectedAnswerError for an answer without it or of another type."""
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
            "the server may just have changed its model, so try again"
        )
    return struct.unpack(f"<{count}{code}", raw)
