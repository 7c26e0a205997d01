"""What the hand-written servers share: texts in, probabilities out, one thread. Needs only the peer's own packages.

Rows run one by one: on a CPU a batch costs what its padding costs, and equal lengths are rare.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

SETTINGS = "BENCH_PEER_SETTINGS"
"""Environment variable that carries `Settings`: worker processes inherit it, whichever way they are started."""


@dataclass(frozen=True)
class Settings:
    """What a hand-written server is told."""

    model: str
    """ONNX file, or OpenVINO's XML file."""
    tokenizer: str
    max_length: int
    workers: int
    port: int

    @classmethod
    def of_environment(cls) -> "Settings":
        """Read what `to_environment` wrote."""
        return cls(**json.loads(os.environ[SETTINGS]))

    def to_environment(self) -> dict[str, str]:
        """The environment variable that carries these settings."""
        return {SETTINGS: json.dumps(self.__dict__)}


class RowScorer:
    """A classifier with its tokenizer: `score` gives probabilities, float32 [texts, labels]."""

    def __init__(self, settings: Settings, load: Callable[[str], tuple[Callable, Sequence[str]]]) -> None:
        """`load` opens the model file: a function from named inputs to logits, and the inputs' names."""
        self._tokenizer = Tokenizer.from_file(settings.tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(settings.max_length)
        self._logits, inputs = load(settings.model)
        self._with_types = "token_type_ids" in inputs

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities, float32 [texts, labels]."""
        rows = self._tokenizer.encode_batch_fast(texts) if len(texts) > 1 else [self._tokenizer.encode(texts[0])]
        return softmax(np.concatenate([self._logits(self._inputs(row.ids)) for row in rows]))

    def _inputs(self, ids: list[int]) -> dict[str, np.ndarray]:
        row = np.array([ids], np.int64)
        inputs = {"input_ids": row, "attention_mask": np.ones_like(row)}
        if self._with_types:
            inputs["token_type_ids"] = np.zeros_like(row)
        return inputs


def load_onnx(path: str) -> tuple[Callable[[dict[str, np.ndarray]], np.ndarray], list[str]]:
    """Open an ONNX file with onnxruntime, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["logits"], inputs)[0], [entry.name for entry in session.get_inputs()]


def load_openvino(path: str) -> tuple[Callable[[dict[str, np.ndarray]], np.ndarray], list[str]]:
    """Open an OpenVINO model, one thread that the system may move: pinned, all workers would share the first core."""
    import openvino

    model = openvino.Core().read_model(path)
    one_thread = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    compiled = openvino.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", **one_thread})
    request = compiled.create_infer_request()
    names = [entry.get_any_name() for entry in compiled.inputs]
    # share_inputs: without copying; the output is copied, since the next row overwrites it.
    return lambda inputs: request.infer(inputs, share_inputs=True)["logits"], names


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, without overflow."""
    scaled = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return scaled / scaled.sum(axis=-1, keepdims=True)


def model_exists(path: Path) -> bool:
    """Whether a converted model was finished: its graph is written after its weights."""
    return path.exists() and path.with_suffix(".bin").exists()
