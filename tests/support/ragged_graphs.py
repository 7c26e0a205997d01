"""Graphs in a ragged form, run by onnxruntime alone: rows of token ids in, one row of scores out for each."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

Ids = NDArray[np.int64]


def session(model: ModelProto) -> Any:
    """An `onnxruntime.InferenceSession` of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def rows_of_ids(lengths: Iterable[int], vocabulary: int) -> list[Ids]:
    """Random rows of these lengths, the same ones every time; no id is below 5, where the special ones are."""
    random = np.random.default_rng(1)
    return [random.integers(5, vocabulary, length) for length in lengths]


def run(
    runner: Any, rows: Sequence[Ids], filler: Sequence[int] | None = None, output: str = "logits"
) -> NDArray[np.float32]:
    """An output [rows, columns] for rows of which each is followed by so many ids that mean nothing (-1)."""
    filled = [
        np.r_[ids, [-1] * more].astype(np.int64) for ids, more in zip(rows, filler or [0] * len(rows), strict=True)
    ]
    result: NDArray[np.float32]
    (result,) = runner.run([output], feed(runner, filled))
    return result


def feed(runner: Any, rows: Sequence[Ids]) -> dict[str, NDArray[Any]]:
    """The graph's inputs for rows that are requests of their own, as Triton makes them."""
    lengths = np.array([[len(row)] for row in rows], np.int32)
    inputs: dict[str, NDArray[Any]] = {"input_ids": np.concatenate(rows), "sequence_lengths": lengths}
    if "longest" in {value.name for value in runner.get_inputs()}:
        inputs["longest"] = np.zeros(lengths.max(), np.float32)
    return inputs
