"""What the hand-written servers share: texts in, probabilities out, one thread. Needs only the peer's own packages.

Rows run one by one: on a CPU a batch costs what its padding costs, and equal lengths are rare.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Arrays = dict[str, NDArray[Any]]


def settings() -> Any:
    """What the server is told: model (ONNX or OpenVINO's XML), tokenizer, max_length, workers, port."""
    return json.loads(os.environ["BENCH_PEER_SETTINGS"])


class RowScorer:
    """A classifier with its tokenizer: `score` gives probabilities, float32 [texts, labels]."""

    def __init__(self) -> None:
        given = settings()
        self._tokenizer = Tokenizer.from_file(given["tokenizer"])
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(given["max_length"])
        load = load_openvino if given["model"].endswith(".xml") else load_onnx
        self._logits, self._names = load(given["model"])

    def score(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Probabilities, float32 [texts, labels]."""
        rows = self._tokenizer.encode_batch_fast(texts) if len(texts) > 1 else [self._tokenizer.encode(texts[0])]
        return softmax(np.concatenate([self._logits(inputs(row.ids, self._names)) for row in rows]))


def inputs(ids: Sequence[int], names: Sequence[str]) -> Arrays:
    """One row of token ids as a padded graph, or as this repository's served one, takes it."""
    row = np.array([ids], np.int64)
    if "sequence_lengths" in names:
        return {"input_ids": row[0], "sequence_lengths": np.array([[len(ids)]], np.int32)}
    known = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
    return {name: known[name] for name in names}


def load_onnx(path: str) -> tuple[Callable[[Arrays], Any], list[str]]:
    """Open an ONNX file with onnxruntime, one thread: a function from named inputs to logits, and the inputs' names."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda given: session.run(["logits"], given)[0], [entry.name for entry in session.get_inputs()]


def load_openvino(path: str) -> tuple[Callable[[Arrays], Any], list[str]]:
    """Open an OpenVINO model, one thread that the system may move: pinned, all workers would share the first core."""
    import openvino

    one_thread = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    compiled = openvino.Core().compile_model(path, "CPU", {"PERFORMANCE_HINT": "LATENCY", **one_thread})
    request = compiled.create_infer_request()
    # share_inputs: without copying; the output is copied, since the next row overwrites it.
    return (
        lambda given: request.infer(given, share_inputs=True)["logits"],
        [entry.get_any_name() for entry in compiled.inputs],
    )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the last axis, without overflow."""
    scaled = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True))
