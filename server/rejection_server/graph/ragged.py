"""Ragged form of a padded classifier: flat tokens of all rows in, one row of scores per text out.

Triton concatenates the ``input_ids`` of the requests of a batch and tells each row's length; the graph does the rest,
so texts of different lengths share an execution, and the same file serves on every host. Three ways, for three kinds
of runtime:

``loop``    a ``Loop`` over the rows whose body is the whole model: no padding, and a row's scores cannot depend on its
            batch mates. For CPUs, where a batch buys little and padding costs much.
``padded``  rows padded to the longest of the batch, with the attention mask made from the lengths. For GPUs, where the
            batch is the throughput.
``tensorrt`` the same in operators that TensorRT's parser takes, with one input more: see
            :mod:`rejection_server.graph.tensorrt_rows`.
"""

from collections.abc import Sequence
from typing import Literal

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from rejection_server.graph.gpu_rows import gpu_rows
from rejection_server.graph.opset import at_least_opset
from rejection_server.graph.rows import (
    INPUT_IDS,
    LOGITS,
    Activation,
    parse_nodes,
    real_tokens,
    scores,
    served_graph,
    tell,
)
from rejection_server.graph.tensorrt_rows import LONGEST, tensorrt_rows
from rejection_server.graph.walk import GraphError
from rejection_server.onnx_backend.token_ids import TokenIds

Form = Literal["loop", "padded", "tensorrt"]

_MINIMUM_OPSET = 13  # since then axes are inputs of Unsqueeze and Squeeze, as written below
KNOWN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_ROW = """
    ragged_start = Gather(ragged_starts, ragged_row)
    ragged_end = Gather(ragged_ends, ragged_row)
    ragged_from = Unsqueeze(ragged_start, ragged_axis0)
    ragged_to = Unsqueeze(ragged_end, ragged_axis0)
    ragged_row_tokens = Slice(ragged_tokens, ragged_from, ragged_to, ragged_axis0)
    row_input_ids = Unsqueeze(ragged_row_tokens, ragged_axis0)
    row_shape = Shape(row_input_ids)
    row_attention_mask = ConstantOfShape<value=int64[1]{1}>(row_shape)
    row_token_type_ids = ConstantOfShape<value=int64[1]{0}>(row_shape)
"""

_PADDED = """
    ragged_columns = Slice(gpu_columns, gpu_zero_vector, gpu_longest_vector, gpu_zero_vector)
    ragged_inside = LessOrEqual(ragged_columns, gpu_lengths)
    ragged_behind_padding = Add(gpu_before, ragged_columns)
    ragged_places = Where(ragged_inside, ragged_behind_padding, gpu_zero)
    ragged_padding = Constant<value_ints=[PAD]>()
    ragged_padded = Concat<axis=0>(ragged_padding, gpu_tokens)
    row_input_ids = Gather(ragged_padded, ragged_places)
    row_attention_mask = Cast<to=7>(ragged_inside)
    row_shape = Shape(row_input_ids)
    row_token_type_ids = ConstantOfShape<value=int64[1]{0}>(row_shape)
"""


def to_ragged(
    model: ModelProto, *, form: Form, accepted: TokenIds, activation: Activation = "softmax", pad_id: int = 0
) -> ModelProto:
    """Give a padded classifier the ragged form.

    ``model`` has the int64 inputs ``input_ids`` and ``attention_mask`` (and ``token_type_ids``), each [rows, tokens],
    and a float output [rows, labels], its only one or the one named ``logits``.

    The result has the inputs ``input_ids`` int64 [tokens of all rows] and ``sequence_lengths`` int32 [rows, 1], and
    ignores ids of -1, with which rows of one request are filled up (``sequence_lengths`` counts them). It has the
    outputs ``logits`` and ``probabilities``, float32 [rows, labels]; ``probabilities`` is the softmax of the logits,
    their sigmoid for models whose labels do not exclude each other, or the logits themselves. ``pad_id`` matters to the
    forms that pad only. With ``tensorrt`` there is a third input, ``longest`` float32 [n], whose values mean nothing:
    no row may be longer than n.

    A row without tokens is scored as the one token 0. A row that holds ids or more tokens than ``model`` can take,
    which ``accepted`` says, is answered with NaN. Neither changes another row's scores.

    Raises :class:`GraphError` when ``model`` has other inputs or no such output.
    """
    model = at_least_opset(model, _MINIMUM_OPSET)
    names = [value.name for value in model.graph.input]
    unknown = sorted(set(names) - set(KNOWN_INPUTS))
    if unknown or INPUT_IDS not in names:
        raise GraphError(f"a text classifier takes {', '.join(KNOWN_INPUTS)}; this model takes {', '.join(names)}")
    if form != "loop" and takes_one_row(model.graph):
        raise GraphError(
            "the model takes one text at a time, and a GPU needs many: give it a padding token (pad_token_id) if it "
            "has none, or export it with dynamic axes"
        )
    logits = logits_of(model.graph)
    labels = labels_of(logits)
    inner = _renamed(model.graph, {name: f"row_{name}" for name in names} | {logits.name: "row_logits"})
    initializers: list[TensorProto] = []
    if form == "loop":
        nodes = [*real_tokens(accepted), *_loop(inner, labels)]
    else:
        nodes = tensorrt_rows(accepted, pad_id) if form == "tensorrt" else _padded(accepted, pad_id)
        nodes += [*inner.node, helper.make_node("Identity", ["row_logits"], ["ragged_logits"])]
        initializers = list(inner.initializer)
    as_float = helper.make_node("Cast", ["ragged_logits"], ["ragged_scores"], to=TensorProto.FLOAT)
    graph = served_graph(
        [*_used(nodes, inner), as_float, *scores("ragged_scores", activation)],
        "ragged_classifier",
        labels,
        initializers,
    )
    if form == "tensorrt":
        graph.input.append(helper.make_tensor_value_info(LONGEST, TensorProto.FLOAT, ["columns"]))
    result = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    result.functions.extend(model.functions)
    tell(result, accepted)
    onnx.checker.check_model(result)
    return result


def _padded(accepted: TokenIds, pad_id: int) -> list[NodeProto]:
    return gpu_rows(accepted) + parse_nodes(_PADDED.replace("PAD", str(pad_id)))


def takes_one_row(graph: GraphProto) -> bool:
    """Whether the graph was made for one row at a time."""
    return any(dim.dim_value == 1 for value in graph.input for dim in value.type.tensor_type.shape.dim[:1])


def logits_of(graph: GraphProto) -> ValueInfoProto:
    """The output that holds the scores; raises GraphError."""
    outputs = {value.name: value for value in graph.output}
    if LOGITS in outputs:
        return outputs[LOGITS]
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    raise GraphError(f"expected one output or one named {LOGITS}; this model gives {', '.join(outputs)}")


def labels_of(logits: ValueInfoProto) -> int:
    """Number of labels of that output; raises GraphError."""
    shape = logits.type.tensor_type.shape.dim
    if len(shape) != 2 or not shape[1].dim_value:
        raise GraphError(f"output '{logits.name}' must have the shape [rows, labels] with a fixed number of labels")
    return int(shape[1].dim_value)


def _loop(inner: GraphProto, labels: int) -> list[NodeProto]:
    """One ``Loop`` over the rows; what it collects has the shape [rows, labels]."""
    element = inner.output[0].type.tensor_type.elem_type or TensorProto.FLOAT
    tail = parse_nodes("ragged_row_logits = Squeeze(row_logits, ragged_axis0) ragged_go_on = Identity(ragged_go)")
    body = helper.make_graph(
        [*_used(parse_nodes(_ROW), inner), *inner.node, *tail],
        "one_row",
        [
            helper.make_tensor_value_info("ragged_row", TensorProto.INT64, []),
            helper.make_tensor_value_info("ragged_go", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("ragged_go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("ragged_row_logits", element, [labels]),
        ],
        list(inner.initializer),
    )
    nodes = parse_nodes(
        "ragged_shape = Shape(ragged_lengths) ragged_count = Squeeze(ragged_shape)"
        "ragged_always = Cast<to=9>(ragged_one)"
    )
    return [*nodes, helper.make_node("Loop", ["ragged_count", "ragged_always"], ["ragged_logits"], body=body)]


def _used(nodes: Sequence[NodeProto], inner: GraphProto) -> list[NodeProto]:
    """The nodes less those that make an input which ``inner`` does not have."""
    absent = {f"row_{name}" for name in KNOWN_INPUTS} - {value.name for value in inner.input}
    return [node for node in nodes if not absent & set(node.output)]


def _renamed(graph: GraphProto, names: dict[str, str]) -> GraphProto:
    """A copy of the graph with values renamed everywhere, in subgraphs too.

    It holds the one output that is renamed; other outputs are left out, and value_info, which the runtime infers.
    """
    result = GraphProto()
    result.CopyFrom(graph)
    del result.value_info[:]
    _rename(result, names)
    kept = [
        value
        for value in result.output
        if value.name == names.get(value.name, value.name) and value.name in names.values()
    ]
    del result.output[:]
    result.output.extend(kept)
    return result


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    for value in [*graph.input, *graph.output, *graph.initializer]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g, names)
