"""Packed form of a BERT-like classifier: linear layers on real tokens only, which short rows share.

Rows are sorted by length and form groups of at most 256 tokens; a longer row is a group alone. A ``Loop`` over the
groups runs the model: its linear layers, norms and activations on the packed tokens of the group, its attention on rows
of one length at a time, [rows, length]. Nothing is padded, and nothing that a row meets depends on other rows, so that
its scores are the same, bit for bit in int8, whatever shares its batch.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from rejection_server.graph.packed_layers import CONTRIB, Group, Layers, Nodes
from rejection_server.graph.packed_read import Encoder, read_encoder
from rejection_server.graph.quantize import quantize_per_token
from rejection_server.graph.ragged import labels_of, logits_of
from rejection_server.graph.rows import (
    INPUT_IDS,
    LOGITS,
    SEQUENCE_LENGTHS,
    Activation,
    parse_nodes,
    real_tokens,
    scores,
    served_graph,
    tell,
)
from rejection_server.graph.walk import GraphError
from rejection_server.onnx_backend.token_ids import TokenIds
from rejection_server.wording import one_line

GROUP_TOKENS = 256
"""A group's rows hold at most so many tokens; a longer row is a group alone."""
TOLERANCE = 1e-4
"""Largest difference from the original's logits, as a share of the largest logit or of 1."""

_OPSET = 18
_IR_VERSION = 9
_CHECKED_LENGTHS = (1, 7, 16, 33, 7, 80)

# Rows sorted by length.
_SORTED = """
    packed_group_tokens = Constant<value_int=GROUP>()
    packed_shape = Shape(ragged_lengths)
    packed_lengths, packed_order = TopK<largest=0>(ragged_lengths, packed_shape)
    packed_ends = CumSum(packed_lengths, ragged_zero)
    packed_starts = Gather(ragged_starts, packed_order)
    packed_rows = Squeeze(packed_shape)
    packed_always = Cast<to=9>(ragged_one)
    packed_first = Identity(ragged_zero)
"""

# Rows `group_first` to `group_end` of the sorted ones, as many as fit, and their runs: rows of one length.
_GROUP = """
    group_first_end = Gather(packed_ends, group_first)
    group_first_length = Gather(packed_lengths, group_first)
    group_before_first = Sub(group_first_end, group_first_length)
    group_most = Add(group_before_first, packed_group_tokens)
    group_fits = LessOrEqual(packed_ends, group_most)
    group_fitting = Cast<to=7>(group_fits)
    group_filled_to = ReduceSum<keepdims=0>(group_fitting)
    group_one_row = Add(group_first, ragged_one)
    group_end = Max(group_filled_to, group_one_row)
    group_from = Unsqueeze(group_first, ragged_axis0)
    group_to = Unsqueeze(group_end, ragged_axis0)
    group_lengths = Slice(packed_lengths, group_from, group_to, ragged_axis0)
    group_starts = Slice(packed_starts, group_from, group_to, ragged_axis0)
    group_longest = ReduceMax<keepdims=0>(group_lengths)
    group_columns = Range(ragged_zero, group_longest, ragged_one)
    group_lengths_column = Unsqueeze(group_lengths, ragged_axis1)
    group_starts_column = Unsqueeze(group_starts, ragged_axis1)
    group_inside = Less(group_columns, group_lengths_column)
    group_places = Add(group_starts_column, group_columns)
    group_tokens = Compress(group_places, group_inside)
    group_ids = Gather(ragged_tokens, group_tokens)
    group_inside_flat = Reshape(group_inside, ragged_last)
    group_real_row = NonZero(group_inside_flat)
    group_real = Squeeze(group_real_row, ragged_axis0)
    group_firsts = CumSum<exclusive=1>(group_lengths, ragged_zero)
    group_is_one_run = Equal(group_first_length, group_longest)
    group_shifted = Concat<axis=0>(ragged_last, group_lengths)
    group_but_last = Slice(group_shifted, ragged_axis0, ragged_last, ragged_axis0)
    group_goes_on = Equal(group_lengths, group_but_last)
    group_begins = Not(group_goes_on)
    group_run_rows = Compress<axis=0>(group_firsts, group_begins)
    group_run_lengths = Compress<axis=0>(group_lengths, group_begins)
    group_size = Shape(group_ids)
    group_run_bounds = Concat<axis=0>(group_run_rows, group_size)
    group_runs_vector = Shape(group_run_rows)
    group_runs = Squeeze(group_runs_vector)
"""
_ZEROS = """
    group_tokens_shape = Shape(group_ids)
    group_zeros_128 = ConstantOfShape<value=uint8[1]{128}>(group_tokens_shape)
    group_zeros_64 = ConstantOfShape<value=uint8[1]{64}>(group_tokens_shape)
"""
_POSITIONS = "group_positions = Mod(group_real, group_longest)"
# RoBERTa numbers a row's tokens from 1, padding tokens not counted; those have the number 0.
_POSITIONS_BUT_PADDING = """
    group_padding = Constant<value_int=PADDING>()
    group_is_padding = Equal(group_ids, group_padding)
    group_no_padding = Not(group_is_padding)
    group_counted = Cast<to=7>(group_no_padding)
    group_before = CumSum<exclusive=1>(group_counted, ragged_zero)
    group_before_rows = Gather(group_before, group_firsts)
    group_row = Div(group_real, group_longest)
    group_before_row = Gather(group_before_rows, group_row)
    group_number = Sub(group_before, group_before_row)
    group_number_from_1 = Add(group_number, ragged_one)
    group_positions = Mul(group_number_from_1, group_counted)
"""
_COLLECTED = """
    group_all = Concat<axis=0>(group_seen, group_logits)
    group_next = Identity(group_end)
    group_go_on = Less(group_end, packed_rows)
"""


def to_packed(model: ModelProto, *, heads: int, int8: bool = False, activation: Activation = "softmax") -> ModelProto:
    """Give a padded float32 BERT-like classifier of ``heads`` attention heads the packed form.

    ``model`` and the result have the inputs and outputs that :func:`rejection_server.graph.ragged.to_ragged` describes.
    With ``int8`` linear layers and the embeddings of words are quantised as :mod:`rejection_server.graph.quantize`
    does, except that activations after GELU use the range that GELU has.

    Raises :class:`GraphError` when the model is not recognised, or when the float32 form answers differently from it by
    more than ``TOLERANCE``.
    """
    labels = labels_of(logits_of(model.graph))
    encoder = read_encoder(model, heads)
    rows = rows_to_compare(encoder)
    # One form of the weights after the other: a large model is in memory often enough.
    expected = answers_of_padded(model, rows)
    plain = _packed(encoder, heads, labels, activation, int8=False)
    check_answers(plain, rows, expected)
    if not int8:
        return plain
    del plain
    return _packed(encoder, heads, labels, activation, int8=True)


def _packed(encoder: Encoder, heads: int, labels: int, activation: Activation, *, int8: bool) -> ModelProto:
    order = _SORTED.replace("=GROUP>", f"={GROUP_TOKENS}>")
    nothing = numpy_helper.from_array(np.zeros((0, labels), np.float32), "packed_nothing")
    body, weights = _body(encoder, heads, labels, int8)
    loop = helper.make_node(
        "Loop",
        ["", "packed_always", "packed_first", nothing.name],
        ["packed_end", "packed_logits"],
        body=body,
    )
    accepted = TokenIds(len(encoder.words), len(encoder.positions))
    back = "packed_sorted_order, packed_back = TopK<largest=0>(packed_order, packed_shape)"
    graph = served_graph(
        [
            *real_tokens(accepted),
            *parse_nodes(order),
            loop,
            *parse_nodes(back),
            helper.make_node("Gather", ["packed_logits", "packed_back"], ["packed_scores"]),
            *scores("packed_scores", activation),
        ],
        "packed_classifier",
        labels,
        [nothing],
    )
    result = helper.make_model(graph, opset_imports=_opsets(), ir_version=_IR_VERSION)
    tell(result, accepted)
    (attribute,) = next(node.attribute for node in result.graph.node if node.op_type == "Loop")
    while weights:  # last, and one by one: what is put into a graph is copied
        attribute.g.initializer.append(weights.pop())
    if int8:  # onnxruntime checks the float32 form
        onnx.checker.check_model(result)
    return result


def _opsets() -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB, 1)]


def _body(encoder: Encoder, heads: int, labels: int, int8: bool) -> tuple[onnx.GraphProto, list[TensorProto]]:
    """The graph of one group, without its weights, and these.

    What it carries on is the next group's first row and the logits so far.
    """
    value = helper.make_tensor_value_info
    nodes = Nodes("packed")
    positions = _POSITIONS
    if encoder.padding_id is not None:
        positions = _POSITIONS_BUT_PADDING.replace("=PADDING>", f"={encoder.padding_id}>")
        table = np.concatenate([encoder.padding_position[None], encoder.positions])
        encoder = dataclasses.replace(encoder, positions=table)
    nodes.nodes += parse_nodes(_GROUP + positions + (_ZEROS if int8 else ""))
    first = Layers(nodes, Group(), heads, int8).encoder(encoder)
    head, weights = head_of(encoder, labels, int8=int8)
    nodes.nodes += [
        helper.make_node("Unsqueeze", [first, "ragged_axis1"], [encoder.hidden]),
        *head,
        helper.make_node("Identity", [encoder.logits], ["group_logits"]),
        *parse_nodes(_COLLECTED),
    ]
    graph = helper.make_graph(
        nodes.nodes,
        "one_group",
        [
            value("group_index", TensorProto.INT64, []),
            value("group_go", TensorProto.BOOL, []),
            value("group_first", TensorProto.INT64, []),
            value("group_seen", TensorProto.FLOAT, ["seen", labels]),
        ],
        [
            value("group_go_on", TensorProto.BOOL, []),
            value("group_next", TensorProto.INT64, []),
            value("group_all", TensorProto.FLOAT, ["all", labels]),
        ],
    )
    return graph, [*nodes.initializers.values(), *weights]


def head_of(encoder: Encoder, labels: int, *, int8: bool = False) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes and weights from the first tokens' [rows, 1, hidden] to the logits."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(encoder.head),
        "head",
        [value(encoder.hidden, TensorProto.FLOAT, ["rows", 1, encoder.hidden_size])],
        [value(encoder.logits, TensorProto.FLOAT, ["rows", labels])],
        list(encoder.head_weights),
    )
    model = helper.make_model(graph, opset_imports=_opsets(), ir_version=_IR_VERSION)
    if int8:
        model = quantize_per_token(model)
    return list(model.graph.node), list(model.graph.initializer)


def rows_to_compare(encoder: Encoder) -> list[NDArray[np.int64]]:
    """Random rows, the padding id among them."""
    random = np.random.default_rng(0)
    lengths = [min(length, len(encoder.positions)) for length in _CHECKED_LENGTHS]
    rows = [random.integers(0, len(encoder.words), length) for length in lengths]
    if encoder.padding_id is not None:
        rows[3][1:20:5] = encoder.padding_id
    return rows


def check_answers(
    ragged: ModelProto, rows: list[NDArray[np.int64]], expected: NDArray[Any], form: str = "packed"
) -> None:
    """Raise GraphError unless the graph of that form answers as expected."""
    flat = {
        INPUT_IDS: np.concatenate(rows).astype(np.int64),
        SEQUENCE_LENGTHS: np.asarray([[len(row)] for row in rows], np.int32),
    }
    try:
        got = _session(ragged).run([LOGITS], flat)[0]
    except Exception as exc:  # onnxruntime raises nothing narrower
        raise GraphError(f"the {form} form does not run: {one_line(exc, 200)}") from exc
    difference = float(np.abs(got - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise GraphError(f"the {form} form's logits differ from the original's by {difference:.2g}")


def answers_of_padded(model: ModelProto, rows: list[NDArray[np.int64]]) -> NDArray[Any]:
    """Logits [rows, labels] of the original, a row at a time."""
    try:
        session = _session(model)
    except Exception as exc:  # onnxruntime raises nothing narrower
        raise GraphError(f"the model does not run: {one_line(exc, 200)}") from exc
    given = {value.name for value in session.get_inputs()}
    output = logits_of(model.graph).name
    answers = []
    for row in rows:
        feed = {"input_ids": row[None], "attention_mask": np.ones((1, len(row)), np.int64)}
        feed["token_type_ids"] = np.zeros((1, len(row)), np.int64)
        answers.append(session.run([output], {name: feed[name] for name in feed if name in given})[0][0])
    return np.asarray(answers)


def _session(model: ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of the weights
    # Out of a file: as bytes, a large model would be in memory once more.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
