"""A classifier's ONNX file as its author wrote it, brought into the one form that everything here builds on.

That form: int64 inputs of any length, float32 throughout, and raw scores as the output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from rejection_server.graph.ragged import KNOWN_INPUTS, logits_of
from rejection_server.graph.rows import INPUT_IDS
from rejection_server.graph.walk import GraphError, graphs

Weights = Literal["fp32", "fp16", "bf16", "int8"]
Function = Literal["Softmax", "LogSoftmax", "Sigmoid"]

_HALVES: dict[int, Weights] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
_TRANSPARENT = ("Identity", "Cast")
_FUNCTIONS = ("Softmax", "LogSoftmax", "Sigmoid")
_QUANTIZED = frozenset(
    {
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QGemm",
        "QLinearMatMul",
    }
)


@dataclass(frozen=True)
class Found:
    """What the file holds that is not in that form."""

    weights: Weights
    """What the weights are stored as; fp16 and bf16 became float32, int8 stays."""
    function: Function | None
    """What was applied to the scores at the end, and was taken out."""
    inputs: tuple[str, ...]
    """Inputs that were int32, and became int64."""

    @property
    def changed(self) -> bool:
        """Whether the file itself is not what is built on."""
        return bool(self.weights in _HALVES.values() or self.function or self.inputs)

    def told(self) -> str:
        """What was found, as half a sentence; empty if there is nothing to say."""
        found = [
            f"{self.weights} weights, taken as float32" if self.weights in _HALVES.values() else "",
            "int8 weights, served as they are" if self.weights == "int8" else "",
            f"a {self.function} at the end, taken out so that it is not applied twice" if self.function else "",
            f"int32 {', '.join(self.inputs)}, made int64" if self.inputs else "",
        ]
        return "; ".join(words for words in found if words)


def to_original(model: ModelProto) -> Found:
    """Bring ``model`` into that form, in place; raises GraphError naming what cannot be served, and why."""
    _check_inputs(model.graph)
    logits_of(model.graph)
    inputs = _widen_inputs(model.graph)
    weights = _weights_of(model)
    if weights in _HALVES.values():
        _to_float32(model)
    function = _take_out_function(model.graph)
    _check_numbers(model.graph)
    return Found(weights, function, inputs)


def _check_inputs(graph: GraphProto) -> None:
    """Raise GraphError for inputs that are no texts of any length."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    names = [value.name for value in inputs]
    if set(names) - set(KNOWN_INPUTS) or INPUT_IDS not in names:
        raise GraphError(
            f"a text classifier takes {', '.join(KNOWN_INPUTS)}; this model takes {', '.join(names) or 'nothing'}"
        )
    del graph.input[:]
    graph.input.extend(inputs)  # before opset 9 weights were listed among them
    for value in inputs:
        kind, dims = value.type.tensor_type.elem_type, value.type.tensor_type.shape.dim
        if kind not in (TensorProto.INT64, TensorProto.INT32):
            raise GraphError(f"its input {value.name} is {TensorProto.DataType.Name(kind)}, and must be INT64 or INT32")
        if len(dims) != 2:
            raise GraphError(f"its input {value.name} has {len(dims)} dimensions, and must be [rows, tokens]")
        rows, tokens = (dim.dim_value for dim in dims)
        if tokens:
            raise GraphError(
                f"its input {value.name} takes texts of exactly {tokens} tokens: export it with dynamic axes, so that "
                "a text costs what its own tokens cost"
            )
        if rows > 1:
            raise GraphError(
                f"its input {value.name} takes exactly {rows} texts at a time: export it with dynamic axes"
            )


def _widen_inputs(graph: GraphProto) -> tuple[str, ...]:
    """Let int32 inputs be int64; returns their names."""
    narrow = [value for value in graph.input if value.type.tensor_type.elem_type == TensorProto.INT32]
    casts = []
    for value in narrow:
        value.type.tensor_type.elem_type = TensorProto.INT64
        _rename_uses(graph, value.name, f"{value.name}_int32")
        casts.append(helper.make_node("Cast", [value.name], [f"{value.name}_int32"], to=TensorProto.INT32))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return tuple(value.name for value in narrow)


def _rename_uses(graph: GraphProto, old: str, new: str) -> None:
    for part in graphs(graph):
        for node in part.node:
            node.input[:] = [new if name == old else name for name in node.input]
        for value in part.output if part is not graph else ():
            value.name = new if value.name == old else value.name


def _weights_of(model: ModelProto) -> Weights:
    """What most of the weights are stored as."""
    sizes: dict[int, int] = {}
    for part in graphs(model.graph):
        if any(node.op_type in _QUANTIZED for node in part.node):
            return "int8"
        for tensor in _tensors(part):
            sizes[tensor.data_type] = sizes.get(tensor.data_type, 0) + int(np.prod(tensor.dims, dtype=np.int64))
    floats = {kind: sizes.get(kind, 0) for kind in (TensorProto.FLOAT, *_HALVES)}
    return _HALVES.get(max(floats, key=lambda kind: floats[kind]), "fp32")


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """The weights of a graph, and the constants and values of its nodes; subgraphs have their own."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _to_float32(model: ModelProto) -> None:
    """Let everything be float32 that is float16 or bfloat16. No number changes: float32 holds them all."""
    for part in graphs(model.graph):
        for tensor in _tensors(part):
            if tensor.data_type in _HALVES:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
        for node in part.node:
            for attribute in node.attribute:
                if attribute.name in ("to", "dtype") and attribute.i in _HALVES:
                    attribute.i = TensorProto.FLOAT
        for value in [*part.input, *part.output]:
            if value.type.tensor_type.elem_type in _HALVES:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        del part.value_info[:]


def _take_out_function(graph: GraphProto) -> Function | None:
    """Let the output hold raw scores; returns the function that was applied to them."""
    output = logits_of(graph)
    producers = {name: node for node in graph.node for name in node.output}
    chain: list[NodeProto] = []
    node = producers.get(output.name)
    while node is not None and node.op_type in _TRANSPARENT:
        chain.append(node)
        node = producers.get(node.input[0])
    if node is None or node.op_type not in _FUNCTIONS or not _over_labels(node):
        return None
    # The scores take the name of the output, and what came behind them goes; who else read it goes on without.
    scores, gone = node.input[0], [node, *chain]
    kept = [other for other in graph.node if all(other is not one for one in gone)]
    del graph.node[:]
    graph.node.extend(kept)
    for other in graph.node:
        other.output[:] = [output.name if name == scores else name for name in other.output]
    _rename_uses(graph, scores, output.name)
    outputs = [output]
    del graph.output[:]
    graph.output.extend(outputs)
    function: Function = node.op_type
    return function


def _over_labels(node: NodeProto) -> bool:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    return node.op_type == "Sigmoid" or axis in (-1, 1)


def _check_numbers(graph: GraphProto) -> None:
    for part in graphs(graph):
        for tensor in part.initializer:
            several = np.prod(tensor.dims) > 1  # one NaN alone is a constant that a graph may need
            if several and tensor.data_type == TensorProto.FLOAT and np.isnan(numpy_helper.to_array(tensor)).any():
                raise GraphError(f"its weight {tensor.name} holds NaN: the file is damaged, or the training failed")
