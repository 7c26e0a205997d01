"""Tiny ONNX models for the tests of the stand-in `onnxruntime` backend."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

Tensor = tuple[str, int, list[int | str | None]]
"""Name, element type and shape; a dimension is open where it is a name or None."""

NUMERIC_TYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)


def make_model(
    nodes: Sequence[object],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    constants: dict[str, NDArray[Any]] | None = None,
    overridable: dict[str, NDArray[Any]] | None = None,
) -> ModelProto:
    """Build and check a model; `overridable` are initialisers that are inputs too."""
    initializers = {**(constants or {}), **(overridable or {})}
    graph_inputs = [helper.make_tensor_value_info(*tensor) for tensor in inputs]
    for name, array in (overridable or {}).items():
        element_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph_inputs.append(helper.make_tensor_value_info(name, element_type, array.shape))
    graph = helper.make_graph(
        nodes,
        "test",
        graph_inputs,
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model


def identity(element_type: int = TensorProto.FLOAT, shape: Sequence[int | str | None] = (None, None)) -> ModelProto:
    """`y = x`."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return make_model([node], [("x", element_type, [*shape])], [("y", element_type, [*shape])])


def identities() -> ModelProto:
    """`same_TYPE = TYPE` for each of NUMERIC_TYPES, all [batch, n]."""
    types = {dtype: helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for dtype in NUMERIC_TYPES}
    return make_model(
        [helper.make_node("Identity", [dtype], [f"same_{dtype}"]) for dtype in types],
        [(dtype, element_type, ["batch", "n"]) for dtype, element_type in types.items()],
        [(f"same_{dtype}", element_type, ["batch", "n"]) for dtype, element_type in types.items()],
    )


def add(element_type: int = TensorProto.FLOAT) -> ModelProto:
    """`y = a + b` and `z = a - b`, all [batch, 2]."""
    shape: list[int | str | None] = [None, 2]
    return make_model(
        [helper.make_node("Add", ["a", "b"], ["y"]), helper.make_node("Sub", ["a", "b"], ["z"])],
        [("a", element_type, shape), ("b", element_type, shape)],
        [("y", element_type, shape), ("z", element_type, shape)],
    )


def classifier() -> ModelProto:
    """A classifier's signature: `input_ids` and `attention_mask` [batch, length] to `logits` [batch, 2]."""
    return make_model(
        [
            helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
            helper.make_node("Cast", ["kept"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["floats", "axes"], ["total"], keepdims=1),
            helper.make_node("Concat", ["total", "total"], ["logits"], axis=1),
        ],
        [
            ("input_ids", TensorProto.INT64, ["batch", "length"]),
            ("attention_mask", TensorProto.INT64, ["batch", "length"]),
        ],
        [("logits", TensorProto.FLOAT, ["batch", 2])],
        {"axes": np.array([1], dtype=np.int64)},
    )


def ragged_sum() -> ModelProto:
    """`total` [batch, 1]: the sum of each row of the ragged `ids`, whose row lengths are in `lengths` [batch, 1].

    `count` [batch, 1] is how many elements the whole batch has, which shows what ran together.
    """
    return make_model(
        [
            helper.make_node("Cast", ["lengths"], ["lengths64"], to=TensorProto.INT64),
            helper.make_node("Squeeze", ["lengths64", "one"], ["row_lengths"]),
            helper.make_node("CumSum", ["row_lengths", "zero"], ["ends"]),
            helper.make_node("Shape", ["ids"], ["size"]),
            helper.make_node("Squeeze", ["size"], ["elements"]),
            helper.make_node("Range", ["zero", "elements", "step"], ["positions"]),
            helper.make_node("Unsqueeze", ["positions", "zeros"], ["columns"]),
            helper.make_node("Unsqueeze", ["ends", "one"], ["row_ends"]),
            helper.make_node("Sub", ["ends", "row_lengths"], ["starts"]),
            helper.make_node("Unsqueeze", ["starts", "one"], ["row_starts"]),
            helper.make_node("GreaterOrEqual", ["columns", "row_starts"], ["after"]),
            helper.make_node("Less", ["columns", "row_ends"], ["before"]),
            helper.make_node("And", ["after", "before"], ["inside"]),
            helper.make_node("Cast", ["inside"], ["selection"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["ids"], ["values"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["values", "one"], ["column"]),
            helper.make_node("MatMul", ["selection", "column"], ["total"]),
            helper.make_node("Mul", ["lengths64", "nothing"], ["zeros_per_row"]),
            helper.make_node("Add", ["zeros_per_row", "elements"], ["count"]),
        ],
        [("ids", TensorProto.INT64, ["elements_in"]), ("lengths", TensorProto.INT32, ["batch", 1])],
        [("total", TensorProto.FLOAT, ["batch", 1]), ("count", TensorProto.INT64, ["batch", 1])],
        {
            "zero": np.array(0, dtype=np.int64),
            "step": np.array(1, dtype=np.int64),
            "zeros": np.array([0], dtype=np.int64),
            "one": np.array([1], dtype=np.int64),
            "nothing": np.array(0, dtype=np.int64),
        },
    )


def batch_input_echo(rank: int, element_type: int) -> ModelProto:
    """Show a batch input: `seen` [batch, ...] repeats the whole tensor `made` once for every row of `x` [batch, n]."""
    made: list[int | str | None] = [f"size_{axis}" for axis in range(rank)]
    return make_model(
        [
            helper.make_node("Shape", ["x"], ["x_shape"], start=0, end=1),
            helper.make_node("Shape", ["made"], ["made_shape"]),
            helper.make_node("Concat", ["x_shape", "made_shape"], ["target"], axis=0),
            helper.make_node("Expand", ["made", "target"], ["seen"]),
            helper.make_node("Identity", ["flat"], ["elements"]),
            helper.make_node("Unsqueeze", ["elements", "axis"], ["row"]),
            helper.make_node("Shape", ["row"], ["row_shape"], start=1),
            helper.make_node("Concat", ["x_shape", "row_shape"], ["row_target"], axis=0),
            helper.make_node("Expand", ["row", "row_target"], ["ragged"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", 1]), ("flat", TensorProto.FLOAT, ["n"]), ("made", element_type, made)],
        [
            ("seen", element_type, ["batch", *made]),
            ("ragged", TensorProto.FLOAT, ["batch", "n"]),
        ],
        {"axis": np.array([0], dtype=np.int64)},
    )


def gather() -> ModelProto:
    """`y` [batch, 1] = table[index] for `index` [batch, 1]; an index above 3 fails inside onnxruntime."""
    return make_model(
        [helper.make_node("Gather", ["table", "index"], ["y"], name="/lookup/Gather")],
        [("index", TensorProto.INT64, [None, 1])],
        [("y", TensorProto.FLOAT, [None, 1])],
        {"table": np.array([10, 11, 12, 13], dtype=np.float32)},
    )


def text_to_number() -> ModelProto:
    """`y` [batch, 1]: the number that the string `text` [batch, 1] spells."""
    return make_model(
        [helper.make_node("Cast", ["text"], ["y"], to=TensorProto.FLOAT)],
        [("text", TensorProto.STRING, [None, 1])],
        [("y", TensorProto.FLOAT, [None, 1])],
    )


def ragged_identity() -> ModelProto:
    """`y = 2 * x`, one dimension of any length."""
    return make_model(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [("x", TensorProto.FLOAT, [None])],
        [("y", TensorProto.FLOAT, [None])],
    )


def slow() -> ModelProto:
    """`y = x` [batch, 1] after `x` matrix products of some 20 ms each."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["matrix_in", "matrix"], ["matrix_out"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("matrix_in", TensorProto.FLOAT, [1000, 1000]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("matrix_out", TensorProto.FLOAT, [1000, 1000]),
        ],
    )
    return make_model(
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["rounds"], to=TensorProto.INT64),
            helper.make_node("Loop", ["rounds", "", "matrix"], ["product"], body=body),
            helper.make_node("ReduceSum", ["product"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "nothing"], ["zero"]),
            helper.make_node("Add", ["x", "zero"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, [None, 1])],
        [("y", TensorProto.FLOAT, [None, 1])],
        {"matrix": np.zeros((1000, 1000), dtype=np.float32), "nothing": np.array(0, dtype=np.float32)},
    )


def scalar() -> ModelProto:
    """`y = x + 1`, scalars."""
    return make_model(
        [helper.make_node("Add", ["x", "step"], ["y"])],
        [("x", TensorProto.FLOAT, [])],
        [("y", TensorProto.FLOAT, [])],
        {"step": np.array(1, dtype=np.float32)},
    )
