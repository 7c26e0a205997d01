"""Varlen form of a BERT-like classifier, for GPUs: the tokens of all rows in one long sequence, nothing padded.

Linear layers, norms and activations run on [tokens of all rows, hidden]. Attention is onnxruntime's operator
PackedMultiHeadAttention, which takes where each row begins. In float16 it is flash attention on GPUs of compute
capability 8.0 and newer, on 7.5 memory-efficient attention. A processor has no kernel for it: to compare with the
original, :func:`rejection_server.graph.varlen_twin.cpu_twin` puts a subgraph in its place.

What tells the tokens apart is computed on the GPU. It avoids reductions, which onnxruntime leaves to cuDNN, and
cumulative sums over all tokens, of which onnxruntime's kernel adds up each from the beginning.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper

from rejection_server.graph.packed import answers_of_padded, check_answers, head_of, rows_to_compare
from rejection_server.graph.packed_layers import CONTRIB, Nodes
from rejection_server.graph.packed_read import Encoder, read_encoder
from rejection_server.graph.ragged import (
    INPUT_IDS,
    LOGITS,
    PROBABILITIES,
    SEQUENCE_LENGTHS,
    Activation,
    GraphError,
    labels_of,
    logits_of,
    parse_nodes,
)
from rejection_server.graph.varlen_layers import Choices, Rows, VarlenLayers
from rejection_server.graph.varlen_twin import cpu_twin

__all__ = ["Choices", "cpu_twin", "to_varlen", "varlen_of"]

_OPSET = 18
_IR_VERSION = 9

# A grid [rows, columns] holds each row's ids from its first column on, -1 behind them. A row without tokens gets the
# one token 0, as the tokenizer would give it.
_GRID = """
    varlen_given = Concat<axis=0>(varlen_filler, input_ids)
    varlen_filled_before = CumSum<exclusive=1>(sequence_lengths, varlen_axis0)
    varlen_inside = LessOrEqual(varlen_numbers, sequence_lengths)
    varlen_anywhere = Add(varlen_filled_before, varlen_numbers)
    varlen_places = Where(varlen_inside, varlen_anywhere, varlen_zero32)
    varlen_grid = Gather(varlen_given, varlen_places)
    varlen_is_real = GreaterOrEqual(varlen_grid, varlen_zero)
    varlen_ones = Cast<to=6>(varlen_is_real)
    varlen_seen = CumSum(varlen_ones, varlen_axis1)
    varlen_counts = Slice(varlen_seen, varlen_minus_one, varlen_end, varlen_axis1_vector)
    varlen_is_empty = Equal(varlen_counts, varlen_zero32)
    varlen_is_first = Equal(varlen_numbers, varlen_one32)
    varlen_stand_in = And(varlen_is_empty, varlen_is_first)
    varlen_kept = Or(varlen_is_real, varlen_stand_in)
    varlen_ids_grid = Max(varlen_grid, varlen_zero)
"""
# Columns numbered from 1, as many as the longest row has. The range's end has to be known to the processor, which waits
# for the GPU; so it does not wait where the number is a constant. TopK does not need cuDNN, as ReduceMax does.
_LONGEST = """
    varlen_lengths_row = Reshape(sequence_lengths, varlen_minus_one)
    varlen_longest_vector, varlen_longest_row = TopK(varlen_lengths_row, varlen_one_vector)
    varlen_at_least_one = Max(varlen_longest_vector, varlen_one32)
    varlen_longest = Squeeze(varlen_at_least_one)
    varlen_one32_scalar = Constant<value=int32 {1}>()
    varlen_behind = Add(varlen_longest, varlen_one32_scalar)
    varlen_numbers = Range(varlen_one32_scalar, varlen_behind, varlen_one32_scalar)
"""
_TOKENS = """
    varlen_kept_flat = Reshape(varlen_kept, varlen_minus_one)
    varlen_real_row = NonZero(varlen_kept_flat)
    varlen_real = Reshape(varlen_real_row, varlen_minus_one)
    varlen_ids_flat = Reshape(varlen_ids_grid, varlen_minus_one)
    varlen_ids = Gather(varlen_ids_flat, varlen_real)
    varlen_positions_flat = Reshape(varlen_positions_grid, varlen_minus_one)
    varlen_positions = Gather(varlen_positions_flat, varlen_real)
    varlen_lengths = Max(varlen_counts, varlen_one32)
    varlen_ends_column = CumSum(varlen_lengths, varlen_axis0)
    varlen_ends = Reshape(varlen_ends_column, varlen_minus_one)
    varlen_cumulative = Concat<axis=0>(varlen_zero32_vector, varlen_ends)
    varlen_firsts = Slice(varlen_cumulative, varlen_zero_vector, varlen_minus_one, varlen_zero_vector)
"""
_POSITIONS = "varlen_positions_grid = Identity(varlen_seen)"
# RoBERTa numbers a row's tokens from 1, padding tokens not counted; those have the number 0.
_POSITIONS_BUT_PADDING = """
    varlen_padding = Constant<value_int=PADDING>()
    varlen_is_padding = Equal(varlen_ids_grid, varlen_padding)
    varlen_no_padding = Not(varlen_is_padding)
    varlen_is_counted = And(varlen_kept, varlen_no_padding)
    varlen_counted = Cast<to=6>(varlen_is_counted)
    varlen_number = CumSum(varlen_counted, varlen_axis1)
    varlen_positions_grid = Mul(varlen_number, varlen_counted)
"""
# For each token, then for each place without one: where it lies in the grid.
_OFFSETS = """
    varlen_no_token = Not(varlen_kept_flat)
    varlen_others_row = NonZero(varlen_no_token)
    varlen_others = Reshape(varlen_others_row, varlen_minus_one)
    varlen_all_places = Concat<axis=0>(varlen_real, varlen_others)
    varlen_places32 = Cast<to=6>(varlen_all_places)
    varlen_grid_shape = Shape(varlen_grid)
    varlen_token_offset = Reshape(varlen_places32, varlen_grid_shape)
"""
_NO_OFFSETS = """
    varlen_grid_shape = Shape(varlen_grid)
    varlen_token_offset = ConstantOfShape<value=int32[1]{0}>(varlen_grid_shape)
"""


def to_varlen(
    model: ModelProto, *, heads: int, activation: Activation = "softmax", choices: Choices | None = None
) -> ModelProto:
    """Give a padded float32 BERT-like classifier of ``heads`` attention heads the varlen form.

    ``model`` and the result have the inputs and outputs that :func:`rejection_server.graph.ragged.to_ragged` describes.
    The head, from each row's first token on, stays in float32.

    Raises :class:`GraphError` when the model is not recognised, or when the float32 form's CPU twin answers differently
    from it.
    """
    choices = choices or Choices()
    labels = labels_of(logits_of(model.graph))
    encoder = read_encoder(model)
    hidden = encoder.words.shape[1]
    if heads < 1 or hidden % heads:
        raise GraphError(f"{hidden} hidden values cannot be split among {heads} attention heads")
    rows = rows_to_compare(encoder)
    expected = answers_of_padded(model, rows)
    plain = varlen_of(encoder, heads, labels, activation, dataclasses.replace(choices, float16=False))
    check_answers(cpu_twin(plain), rows, expected, "varlen")
    return varlen_of(encoder, heads, labels, activation, choices) if choices.float16 else plain


@dataclass(frozen=True)
class _Table:
    """Position embeddings, and how the graph numbers positions: 1 is the first, 0 what no position is."""

    rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    numbering: str

    @classmethod
    def of(cls, encoder: Encoder) -> "_Table":
        if encoder.padding_id is None:
            # An empty row's token 0 is in no place; it is the first.
            return cls(np.concatenate([encoder.positions[:1], encoder.positions]), _POSITIONS)
        numbering = _POSITIONS_BUT_PADDING.replace("=PADDING>", f"={encoder.padding_id}>")
        return cls(np.concatenate([encoder.padding_position[None], encoder.positions]), numbering)


def varlen_of(encoder: Encoder, heads: int, labels: int, activation: Activation, choices: Choices) -> ModelProto:
    """The varlen form of what :func:`rejection_server.graph.packed_read.read_encoder` read, not compared with it."""
    value = helper.make_tensor_value_info
    nodes = Nodes("varlen")
    for name, number in {"zero": 0, "filler": [-1], "minus_one": [-1], "end": [2**31 - 1]}.items():
        nodes.constant(name, np.asarray(number, np.int64))
    for name, number in {"axis0": 0, "axis1": 1, "zero_vector": [0], "one_vector": [1], "axis1_vector": [1]}.items():
        nodes.constant(name, np.asarray(number, np.int64))
    for name, number in {"zero32": [0], "zero32_vector": [0], "one32": [1]}.items():
        nodes.constant(name, np.asarray(number, np.int32))
    front = _GRID
    if choices.width is None:
        front = _LONGEST + front
    else:
        nodes.constant("numbers", np.arange(1, min(choices.width, len(encoder.positions)) + 1, dtype=np.int32))
    table = _Table.of(encoder)
    front += table.numbering + _TOKENS + (_OFFSETS if choices.exact_offsets else _NO_OFFSETS)
    nodes.nodes += parse_nodes(front)
    encoder = dataclasses.replace(encoder, positions=table.rows)
    first = VarlenLayers(nodes, Rows(), heads, choices).encoder(encoder)
    head, weights = head_of(encoder, labels)
    inner = {name: f"varlen_head_{name}" for node in head for name in node.output}  # one of them may be `logits`
    for node in head:
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner[name] for name in node.output]
    last = {"softmax": helper.make_node("Softmax", [LOGITS], [PROBABILITIES], axis=-1)}.get(
        activation, helper.make_node("Sigmoid", [LOGITS], [PROBABILITIES])
    )
    graph = helper.make_graph(
        [
            *nodes.nodes,
            helper.make_node("Unsqueeze", [first, "varlen_axis1_vector"], [encoder.hidden]),
            *head,
            helper.make_node("Identity", [inner[encoder.logits]], [LOGITS]),
            last,
        ],
        "varlen_classifier",
        [value(INPUT_IDS, TensorProto.INT64, ["tokens"]), value(SEQUENCE_LENGTHS, TensorProto.INT32, ["rows", 1])],
        [value(name, TensorProto.FLOAT, ["rows", labels]) for name in (LOGITS, PROBABILITIES)],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB, 1)]
    result = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    weights = [*nodes.initializers.values(), *weights]
    nodes.initializers.clear()
    while weights:  # last, and one by one: what is put into a graph is copied
        result.graph.initializer.append(weights.pop())
    return result
