"""Reads a model's own ONNX file: checked, and in the form that is built on. Runs in a process of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from rejection_server.graph.original import Found, to_original
from rejection_server.graph.rows import Activation
from rejection_server.graph.walk import GraphError
from rejection_server.prepare.configuration import Device
from rejection_server.prepare.errors import CorruptedError, UnsupportedError, disk_errors
from rejection_server.prepare.source import CONFIG
from rejection_server.prepare.tokenizer import load_tokenizer
from rejection_server.wording import one_line

_TEXTS = (
    "Yes.",
    "I am sorry, but this is not something that I can do for you.",
    "The bridge is closed, take the ferry.",
)
Rows = Sequence[Sequence[int]]
_CLOSE = {"fp32": 1e-5, "int8": 1e-5, "fp16": 2e-2, "bf16": 1e-1}
"""How near the rewritten file's answers are to those of the file itself, whose half precision rounds at each step."""

_SUMS_TO_1 = 1e-3


def load_onnx(path: Path) -> ModelProto:
    """The model in the file, its weights included; raises CorruptedError."""
    try:
        model = onnx.load(path)
    except Exception as exc:  # protobuf's own error, or a missing file with the weights
        raise CorruptedError(f"{path.name} is not a readable ONNX file: {one_line(exc, 200)}") from exc
    if not model.graph.node:
        raise CorruptedError(f"{path.name} is not a readable ONNX file: it holds no graph")
    return model


def few_rows(folder: Path) -> Rows:
    """Token ids of a few texts, as the tokenizer in `folder` makes them; raises what `load_tokenizer` does."""
    tokenizer = load_tokenizer(folder)
    return [tokenizer(text)["input_ids"] for text in _TEXTS]


def read_onnx(path: Path, original: Path, rows: Rows) -> Found:
    """Look at the ONNX file at `path`; where it is not in the form that is built on, write that to `original`.

    What is written gives the same answers to `rows` of token ids, or UnsupportedError is raised, as it is for a file
    that cannot be served; CorruptedError for one that cannot be read.
    """
    model = load_onnx(path)
    try:
        found = to_original(model)
    except GraphError as exc:
        raise UnsupportedError(f"{path.name} cannot be served: {exc}") from exc
    if found.changed:
        with disk_errors(original):
            onnx.save(model, original, save_as_external_data=True, location=f"{original.name}.data")
        del model
        _compare(path, original, found, rows)
    return found


def check_usable(found: Found, name: str, activation: Activation, precision: str, device: Device) -> None:
    """Raise UnsupportedError if what was found in the file `name` does not go with the rest of what is known."""
    means = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
    if found.function and means[found.function] != activation:
        raise UnsupportedError(
            f"{name} ends with a {found.function}, and {CONFIG} means {activation}: set problem_type in {CONFIG} to "
            "single_label_classification if labels exclude each other, else to multi_label_classification"
        )
    if found.weights == "int8" and (precision not in ("auto", "int8") or device == "gpu"):
        raise UnsupportedError(
            f"{name} is quantised already, to int8: prepare it for a CPU with --precision int8, or take the model as "
            "it was before"
        )


def check_raw(logits: NDArray[np.float64], name: str) -> None:
    """Raise UnsupportedError if what the file `name` gives for many texts, [texts, labels], cannot be raw scores."""
    if logits.shape[1] > 1 and (logits >= 0).all() and np.abs(logits.sum(axis=1) - 1).max() < _SUMS_TO_1:
        raise UnsupportedError(
            f"the scores that {name} gives add up to 1 for every text: it holds a softmax in a form that is not "
            "recognised, so export it with raw scores (logits) as its output"
        )


def _compare(path: Path, original: Path, found: Found, rows: Rows) -> None:
    expected, answers = _answers(path, rows), _answers(original, rows)
    if found.function in ("Softmax", "LogSoftmax"):
        powers = np.exp(answers - answers.max(axis=-1, keepdims=True))
        answers = powers / powers.sum(axis=-1, keepdims=True)
        answers = np.log(answers) if found.function == "LogSoftmax" else answers
    elif found.function:
        answers = 1 / (1 + np.exp(-answers))
    largest = float(np.abs(expected - answers).max())
    if not largest <= _CLOSE[found.weights] * max(1.0, float(np.abs(expected).max())):  # nor is NaN
        raise UnsupportedError(f"{path.name} cannot be served: without {found.told()} it answers otherwise")


def _answers(path: Path, rows: Rows) -> NDArray[np.float64]:
    session = open_onnx(path)
    outputs = [value.name for value in session.get_outputs()]
    return np.concatenate([run(session, row, "logits" if "logits" in outputs else outputs[0]) for row in rows])


def open_onnx(path: Path) -> Any:
    """A session of the ONNX file on the processor; raises CorruptedError."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, too
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime raises nothing narrower
        raise CorruptedError(f"onnxruntime cannot read {path.name}: {one_line(exc)}") from exc


def run(session: Any, ids: Sequence[int], output: str) -> NDArray[np.float64]:
    """Answer [1, labels] of a padded classifier to one text's token ids; raises UnsupportedError if it fails."""
    types = {value.name: np.int32 if value.type == "tensor(int32)" else np.int64 for value in session.get_inputs()}
    values = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)}
    feed = {name: np.asarray([values[name]], kind) for name, kind in types.items()}
    try:
        (answer,) = session.run([output], feed)
    except Exception as exc:  # onnxruntime raises nothing narrower
        raise UnsupportedError(
            f"the ONNX file cannot answer a text of {len(ids)} tokens ({one_line(exc, 160)}): export it with "
            "dynamic axes"
        ) from exc
    if np.ndim(answer) != 2:
        raise UnsupportedError(
            f"the ONNX file is no text classifier: its output '{output}' has the shape {list(np.shape(answer))} for "
            "one text, and must be [rows, labels]"
        )
    return np.asarray(answer, np.float64)
