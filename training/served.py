"""The model as Triton serves it, without Triton: its answers, what its encoder makes of a text, another head for it.

Works on the packed int8 ONNX file of a BERT classifier that `training.export` writes. Who teaches the head what this
encoder makes of a text, and not what the float32 one does, teaches it what it will see when it is served.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, numpy_helper
from tokenizers import Tokenizer

from rejection_server.graph.quantize import to_int8
from training.metrics import Floats

Report = Callable[[str], None]

_ROWS = 16
"""Texts of a run. They are of like length, and none changes what another one gets."""
_HEAD = ("bert.pooler.dense", "classifier")


@dataclass(frozen=True, slots=True)
class Served:
    """The files that Triton serves."""

    model: Path
    tokenizer: Path

    def logits(self, texts: Sequence[str], max_length: int) -> Floats:
        """Logits [texts, labels]."""
        return self._read(onnx.load(self.model), texts, max_length)

    def first_tokens(self, texts: Sequence[str], max_length: int, report: Report | None = None) -> Floats:
        """What the last layer makes of the first token of each text, [texts, hidden]."""
        return self._read(_without_head(onnx.load(self.model)), texts, max_length, report)

    def replace_head(self, head: Any) -> None:
        """Give the model pooler and last layer of ``head``, a BERT classifier in PyTorch; the rest stays as it is."""
        result = onnx.load(self.model)
        weights = {tensor.name: tensor for tensor in body(result).initializer}
        for name in _HEAD:
            layer = head.get_submodule(name)
            whole, scale = to_int8(np.ascontiguousarray(layer.weight.detach().numpy().T), axis=0)
            arrays = {"weight_int8": whole, "weight_scale": scale.reshape(-1), "bias": layer.bias.detach().numpy()}
            for kind, array in arrays.items():
                tensor = weights[f"model.{name}.{kind}"]
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        onnx.save(result, self.model)

    def _read(self, model: ModelProto, texts: Sequence[str], max_length: int, report: Report | None = None) -> Floats:
        reader = Tokenizer.from_file(str(self.tokenizer))
        reader.enable_truncation(max_length)
        encoded: list[NDArray[np.int64]] = [np.asarray(text.ids, np.int64) for text in reader.encode_batch(list(texts))]
        session = onnxruntime.InferenceSession(model.SerializeToString())
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        rows: dict[int, Floats] = {}
        read, told, total = 0, 0.0, sum(map(len, encoded))
        for start in range(0, len(order), _ROWS):
            batch = order[start : start + _ROWS]
            ids = [encoded[i] for i in batch]
            lengths = np.asarray([[len(row)] for row in ids], np.int32)
            (found,) = session.run(["logits"], {"input_ids": np.concatenate(ids), "sequence_lengths": lengths})
            rows |= dict(zip(batch, found, strict=True))
            read += sum(map(len, ids))
            if report and read / total >= told + 0.1:
                told = read / total
                report(f"{len(rows)} of {len(order)} texts, {told:.0%} of their tokens")
        return np.asarray([rows[i] for i in range(len(order))], np.float64)


def body(model: ModelProto) -> GraphProto:
    """The graph that runs once for each group of rows; it holds the weights."""
    (graph,) = (a.g for node in model.graph.node if node.op_type == "Loop" for a in node.attribute if a.name == "body")
    return graph


def _without_head(model: ModelProto) -> ModelProto:
    """The model that gives the first tokens, [rows, hidden], in the place of logits. ``model`` is changed."""
    graph = body(model)
    last = [node for node in graph.node if node.op_type == "LayerNormalization"][-1]  # the head has none
    (end,) = (node for node in graph.node if "group_logits" in node.output)
    end.input[0] = last.output[0]
    (gain,) = (tensor for tensor in graph.initializer if tensor.name == last.input[1])
    (hidden,) = gain.dims
    for value in (*graph.input, *graph.output, *model.graph.output):
        shape = value.type.tensor_type.shape.dim
        if len(shape) == 2:
            shape[1].dim_value = hidden
    (nothing,) = (tensor for tensor in model.graph.initializer if tensor.name == "packed_nothing")
    nothing.CopyFrom(numpy_helper.from_array(np.zeros((0, hidden), np.float32), nothing.name))
    return model
