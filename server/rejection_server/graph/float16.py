"""A padded float32 classifier in float16: weights and activations, but not what makes integers."""

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from rejection_server.graph.opset import at_least_opset

_OPSET = 18
_OF_SHAPES = ("Shape", "Size")
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)
MASKED = -32000.0
"""For a mask's -inf or least number: softmax makes 0 of it and of a score more, and two of them add up to a number."""


def to_float16(model: ModelProto) -> ModelProto:
    """The model in float16, its inputs and outputs as they were, by onnxruntime's own conversion."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = at_least_opset(model, _OPSET)
    _spell_out_constants(model)
    kept = _nodes_of_indices(model)
    converted: ModelProto = convert_float_to_float16(model, keep_io_types=True, node_block_list=sorted(kept))
    _join(converted, kept)
    _drop_copies(converted)
    _soften_masks(converted)
    OnnxModel(converted).topological_sort()  # casts between the two types were added at the end
    del converted.graph.value_info[:]
    return converted


def _nodes_of_indices(model: ModelProto) -> set[str]:
    """Names of the nodes that make integers by way of floats, such as the buckets of relative positions.

    In float16 some would be the neighbouring integer; a shape is the same in any precision, so what only gives its
    shape is not among them. Nodes without a name are given one.
    """
    producers: dict[str, NodeProto] = {}
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
        producers |= dict.fromkeys(node.output, node)
    pending = [node for node in model.graph.node if node.op_type == "Cast" and node.attribute[0].i in _INTEGERS]
    kept: set[str] = set()
    while pending:
        node = pending.pop()
        if node.name not in kept and node.op_type not in _OF_SHAPES:
            kept.add(node.name)
            pending += [producers[name] for name in node.input if name in producers]
    return kept


def _drop_copies(model: ModelProto) -> None:
    """Leave each cast once: the conversion writes it anew for each node in float32 that reads the same value."""
    written: set[str] = set()
    for node in list(model.graph.node):
        if written.issuperset(node.output):
            model.graph.node.remove(node)
        written.update(node.output)


def _soften_masks(model: ModelProto) -> None:
    """Keep what masks attention finite: -65504 and a score, or the mask of a row and that of a column, are -inf.

    Of a row that is masked altogether -inf makes NaN, which spreads to all rows.
    """
    held = [
        node.attribute[0].t
        for node in model.graph.node
        if node.op_type in ("Constant", "ConstantOfShape") and node.attribute
    ]
    for tensor in [*model.graph.initializer, *held]:
        if tensor.data_type != TensorProto.FLOAT16:
            continue
        array = numpy_helper.to_array(tensor)
        if (array < MASKED).any():
            tensor.CopyFrom(numpy_helper.from_array(np.maximum(array, np.float16(MASKED)), tensor.name))


def _join(model: ModelProto, names: set[str]) -> None:
    """Let these nodes, which compute in float32, take each other's results as they are, not by way of float16."""
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name not in names:
            continue
        for i, name in enumerate(node.input):
            to_float = producers.get(name)
            to_half = producers.get(to_float.input[0]) if to_float and to_float.op_type == "Cast" else None
            if to_half and to_half.op_type == "Cast" and to_half.attribute[0].i == TensorProto.FLOAT16:
                node.input[i] = to_half.input[0]


def _spell_out_constants(model: ModelProto) -> None:
    """Give constants written as plain numbers the form of tensors, the only one that the conversion sees."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                value = np.asarray(helper.get_attribute_value(attribute), dtype=np.float32)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))
