"""int8 weights with one activation scale per token.

Linear layers become integer matrix products: the weight has one scale per output column, the activation one scale per
token (row of the matrix), found at run time. So a token's scores depend on nothing but its own text, whatever shares
the batch, and outliers of one token cost the others no precision. Embedding tables are stored in int8 with a scale per
row.
"""

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from rejection_server.graph.opset import at_least_opset
from rejection_server.graph.walk import graphs

_SMALLEST_TABLE = 2**16  # elements; smaller tables are not worth two more nodes
_ZERO_POINT = 128  # uint8 activations are faster than int8 ones on x86-64 processors
_LEVELS = 127.0
_CONTRIB = "com.microsoft"  # onnxruntime's own operators; every onnxruntime has them, so both hosts do
_MINIMUM_OPSET = 18  # since then the axes of ReduceMax are an input, as written below


def quantize_per_token(model: ModelProto) -> ModelProto:
    """Return ``model`` with every constant weight of ``MatMul`` and ``Gemm`` and every large embedding table in int8.

    The scale of a token's activation x is max(abs(x)) / 127, and q = round(x / scale) + 128. Inputs and outputs stay as
    they are; attention's products of two activations, normalisations and biases stay in floating point.
    """
    result = at_least_opset(model, _MINIMUM_OPSET)
    if all(entry.domain != _CONTRIB for entry in result.opset_import):
        result.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    for graph in graphs(result.graph):
        _quantize_graph(graph)
    onnx.checker.check_model(result)
    return result


def _quantize_graph(graph: GraphProto) -> None:
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    added: dict[str, TensorProto] = {}
    scaled: set[str] = set()
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and _is_matrix(weights.get(node.input[1])):
            nodes += _linear(node, weights, added, scaled)
        elif node.op_type == "Gather" and _is_table(node, weights):
            nodes += _embedding(node, weights, added)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    used |= {name for graph_ in graphs(graph) for node in graph_.node for name in node.input if graph_ is not graph}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *added.values()])
    del graph.value_info[:]


def _is_matrix(tensor: TensorProto | None) -> bool:
    return tensor is not None and len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT


def _is_table(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    table = weights.get(node.input[0])
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return table is not None and _is_matrix(table) and axis == 0 and int(np.prod(table.dims)) >= _SMALLEST_TABLE


def to_int8(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 with one scale for each slice along ``axis``."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0).astype(np.float32) / np.float32(_LEVELS)
    return np.rint(values / scale).astype(np.int8), scale.astype(np.float32)


def _constant(added: dict[str, TensorProto], name: str, value: ArrayLike) -> str:
    added.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
    return name


def _linear(
    node: NodeProto, weights: dict[str, TensorProto], added: dict[str, TensorProto], scaled: set[str]
) -> list[NodeProto]:
    x, w, y = node.input[0], node.input[1], node.output[0]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Gemm" and (attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0):
        return [node]
    weight = numpy_helper.to_array(weights[w])
    weight = weight.T if attributes.get("transB", 0) else weight
    q, scale = to_int8(np.ascontiguousarray(weight), axis=0)
    w_q = _constant(added, f"{w}_int8", q)
    w_scale = _constant(added, f"{w}_scale", scale.reshape(-1))
    zero_point = _constant(added, "int8_zero_point", np.uint8(_ZERO_POINT))
    nodes = [] if x in scaled else _scale_activation(x, added)
    scaled.add(x)
    nodes.append(
        helper.make_node(
            "MatMulIntegerToFloat",
            [f"{x}_uint8", w_q, _constant(added, "int8_one", np.float32(1)), w_scale, zero_point],
            [f"{y}_columns"],
            name=f"{y}_matmul",
            domain=_CONTRIB,
        )
    )
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else ""
    nodes.append(helper.make_node("Mul", [f"{y}_columns", f"{x}_scale"], [f"{y}_linear" if bias else y]))
    if bias:
        beta = attributes.get("beta", 1.0)
        if beta != 1.0:
            bias = _constant(added, f"{bias}_times_{beta}", numpy_helper.to_array(weights[bias]) * np.float32(beta))
        nodes.append(helper.make_node("Add", [f"{y}_linear", bias], [y]))
    return nodes


def _scale_activation(x: str, added: dict[str, TensorProto]) -> list[NodeProto]:
    last = _constant(added, "int8_last_axis", np.asarray([-1], np.int64))
    inverse = _constant(added, "int8_inverse_levels", np.float32(1 / _LEVELS))
    smallest = _constant(added, "int8_smallest", np.float32(1e-30))
    one = _constant(added, "int8_one", np.float32(1))
    middle = _constant(added, "int8_zero_point", np.uint8(_ZERO_POINT))
    return [
        helper.make_node("Abs", [x], [f"{x}_abs"]),
        helper.make_node("ReduceMax", [f"{x}_abs", last], [f"{x}_largest"], keepdims=1),
        helper.make_node("Max", [f"{x}_largest", smallest], [f"{x}_positive"]),
        helper.make_node("Mul", [f"{x}_positive", inverse], [f"{x}_scale"]),
        helper.make_node("Div", [x, f"{x}_scale"], [f"{x}_scaled"]),
        helper.make_node("QuantizeLinear", [f"{x}_scaled", one, middle], [f"{x}_uint8"]),
    ]


def _embedding(node: NodeProto, weights: dict[str, TensorProto], added: dict[str, TensorProto]) -> list[NodeProto]:
    table, ids, y = node.input[0], node.input[1], node.output[0]
    q, scale = to_int8(numpy_helper.to_array(weights[table]), axis=1)
    return [
        helper.make_node("Gather", [_constant(added, f"{table}_int8", q), ids], [f"{y}_rows_int8"], axis=0),
        helper.make_node("Gather", [_constant(added, f"{table}_scale", scale), ids], [f"{y}_rows_scale"], axis=0),
        helper.make_node("Cast", [f"{y}_rows_int8"], [f"{y}_rows"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{y}_rows", f"{y}_rows_scale"], [y]),
    ]
