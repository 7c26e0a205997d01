"""Varlen form of a BERT-like classifier, for GPUs: the tokens of all rows in one long sequence, nothing padded.

Linear layers, norms and activations run on [tokens of all rows, hidden]. Attention is onnxruntime's operator
PackedMultiHeadAttention, which takes where each row begins. In float16 it is flash attention on GPUs of compute
capability 8.0 and newer; on 7.5, and where a bias by distance is added to the scores (MPNet), it is memory-efficient
attention. A processor has no kernel for it: to compare with the original,
:func:`rejection_server.graph.varlen_twin.cpu_twin` puts a subgraph in its place.
"""

import dataclasses

import numpy as np
from onnx import ModelProto, helper

from rejection_server.graph.gpu_rows import gpu_rows
from rejection_server.graph.packed import answers_of_padded, check_answers, head_of, rows_to_compare
from rejection_server.graph.packed_layers import CONTRIB, Nodes
from rejection_server.graph.packed_match import Floats
from rejection_server.graph.packed_read import Encoder, read_encoder
from rejection_server.graph.ragged import labels_of, logits_of
from rejection_server.graph.rows import (
    Activation,
    parse_nodes,
    scores,
    served_graph,
    tell,
)
from rejection_server.graph.varlen_layers import Rows, VarlenLayers
from rejection_server.graph.varlen_twin import cpu_twin
from rejection_server.onnx_backend.token_ids import TokenIds

__all__ = ["cpu_twin", "to_varlen", "varlen_of"]

_OPSET = 18
_IR_VERSION = 9

_TOKENS = """
    varlen_numbers_flat = Reshape(varlen_numbers, gpu_last)
    varlen_positions = Gather(varlen_numbers_flat, gpu_token_places)
    varlen_firsts = Reshape(gpu_before, gpu_last)
    varlen_count = Shape(gpu_tokens)
    varlen_bounds = Concat<axis=0>(varlen_firsts, varlen_count)
    varlen_cumulative = Cast<to=6>(varlen_bounds)
"""
_NUMBERS = "varlen_numbers = Identity(gpu_numbers)"
# RoBERTa numbers a row's tokens from 1, padding tokens not counted; those have the number 0.
_NUMBERS_BUT_PADDING = """
    varlen_padding = Constant<value_int=PADDING>()
    varlen_is_padding = Equal(gpu_ids, varlen_padding)
    varlen_counted = Where(varlen_is_padding, gpu_zero, gpu_kept)
    varlen_counted_so_far = CumSum(varlen_counted, gpu_axis1)
    varlen_numbers = Mul(varlen_counted_so_far, varlen_counted)
"""
# With a bias, rows are said to have a multiple of 16 columns: memory-efficient attention takes one only of such a width
# (in float16 of 8). It is that of the longest row which the model takes at most, whatever is sent, and is computed from
# a shape on the processor, without waiting for the GPU.
_GRID = "varlen_grid_shape = Shape(gpu_grid)"
_GRID_OF_BIAS = """
    varlen_rows = Shape<start=0, end=1>(gpu_lengths)
    varlen_given_width = Shape(gpu_columns)
    varlen_needed_width = Min(varlen_given_width, gpu_longest_vector)
    varlen_step = Constant<value_ints=[STEP]>()
    varlen_step_but_one = Constant<value_ints=[BUT_ONE]>()
    varlen_raised_width = Add(varlen_needed_width, varlen_step_but_one)
    varlen_steps = Div(varlen_raised_width, varlen_step)
    varlen_width = Mul(varlen_steps, varlen_step)
    varlen_last_column = Squeeze(varlen_width)
    varlen_behind_last = Add(varlen_last_column, gpu_one)
    varlen_columns = Range(gpu_one, varlen_behind_last, gpu_one)
    varlen_grid_shape = Concat<axis=0>(varlen_rows, varlen_width)
    varlen_columns_down = Unsqueeze(varlen_columns, ragged_axis1)
    varlen_signed_distances = Sub(varlen_columns, varlen_columns_down)
    varlen_farthest = Constant<value_int=FARTHEST>()
    varlen_distances = Add(varlen_signed_distances, varlen_farthest)
"""
_STEP = 16
# For each token, then for each place without one: where it lies in a grid whose rows begin with their tokens. The
# processor waits for the GPU twice more, and all told the execution takes 3 to 4% longer.
_OFFSETS = """
    varlen_is_token = LessOrEqual(COLUMNS, gpu_lengths)
    varlen_is_token_flat = Reshape(varlen_is_token, gpu_last)
    varlen_is_none_flat = Not(varlen_is_token_flat)
    varlen_token_row = NonZero(varlen_is_token_flat)
    varlen_none_row = NonZero(varlen_is_none_flat)
    varlen_offsets_row = Concat<axis=1>(varlen_token_row, varlen_none_row)
    varlen_offsets = Reshape(varlen_offsets_row, varlen_grid_shape)
    varlen_token_offset = Cast<to=6>(varlen_offsets)
"""
_NO_OFFSETS = "varlen_token_offset = ConstantOfShape<value=int32[1]{0}>(varlen_grid_shape)"


def reads_offsets(head_size: int, *, float16: bool) -> bool:
    """Whether attention may read the values of `token_offset`, not its shape alone.

    Only onnxruntime's unfused kernel does. Which kernel runs depends in float16 on the size of a head, never on the
    batch: a multiple of 8 takes flash attention, on older GPUs, above 256 or with a bias memory-efficient attention.
    (Environment variables that switch off both are not for a varlen graph.) In float32, short rows take the unfused
    one.
    """
    return not float16 or head_size % 8 != 0


def to_varlen(model: ModelProto, *, heads: int, activation: Activation = "softmax", float16: bool = True) -> ModelProto:
    """Give a padded float32 BERT-like classifier of ``heads`` attention heads the varlen form.

    ``model`` and the result have the inputs and outputs that :func:`rejection_server.graph.ragged.to_ragged` describes.
    The head, from each row's first token on, stays in float32.

    Raises :class:`GraphError` when the model is not recognised, or when the float32 form's CPU twin answers differently
    from it.
    """
    labels = labels_of(logits_of(model.graph))
    encoder = read_encoder(model, heads)
    rows = rows_to_compare(encoder)
    expected = answers_of_padded(model, rows)
    plain = varlen_of(encoder, heads, labels, activation, float16=False)
    check_answers(cpu_twin(plain), rows, expected, "varlen")
    return varlen_of(encoder, heads, labels, activation, float16=True) if float16 else plain


def varlen_of(encoder: Encoder, heads: int, labels: int, activation: Activation, *, float16: bool) -> ModelProto:
    """The varlen form of what :func:`rejection_server.graph.packed_read.read_encoder` read, not compared with it."""
    accepted = TokenIds(len(encoder.words), len(encoder.positions))
    nodes = Nodes("varlen")
    nodes.nodes += gpu_rows(accepted)
    numbers = _NUMBERS
    if encoder.padding_id is not None:
        numbers = _NUMBERS_BUT_PADDING.replace("=PADDING>", f"={encoder.padding_id}>")
    offsets = _OFFSETS if reads_offsets(encoder.hidden_size // heads, float16=float16) else _NO_OFFSETS
    grid, columns, rows = _GRID, "gpu_columns", Rows()
    if encoder.bias is not None:
        bias = _of_whole_steps(encoder.bias)
        encoder = dataclasses.replace(encoder, bias=bias)
        grid, columns, rows = _grid_of_bias(bias), "varlen_columns", Rows(distances="varlen_distances")
    nodes.nodes += parse_nodes(numbers + _TOKENS + grid + offsets.replace("COLUMNS", columns))
    table = np.concatenate([encoder.padding_position[None], encoder.positions])
    encoder = dataclasses.replace(encoder, positions=table)
    first = VarlenLayers(nodes, rows, heads, float16).encoder(encoder)
    head, weights = head_of(encoder, labels)
    inner = {name: f"varlen_head_{name}" for node in head for name in node.output}  # one of them may be `logits`
    for node in head:
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner[name] for name in node.output]
    graph = served_graph(
        [
            *nodes.nodes,
            helper.make_node("Unsqueeze", [first, "ragged_axis1"], [encoder.hidden]),
            *head,
            *scores(inner[encoder.logits], activation),
        ],
        "varlen_classifier",
        labels,
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB, 1)]
    result = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    tell(result, accepted)
    weights = [*nodes.initializers.values(), *weights]
    nodes.initializers.clear()
    while weights:  # last, and one by one: what is put into a graph is copied
        result.graph.initializer.append(weights.pop())
    return result


def _of_whole_steps(bias: Floats) -> Floats:
    """The bias by distance for as many columns as rows may be said to have."""
    farthest = bias.shape[1] // 2
    more = -(farthest + 1) % _STEP
    return np.pad(bias, ((0, 0), (more, more)), mode="edge")


def _grid_of_bias(bias: Floats) -> str:
    numbers = {"FARTHEST": bias.shape[1] // 2, "BUT_ONE": _STEP - 1, "STEP": _STEP}
    text = _GRID_OF_BIAS
    for name, number in numbers.items():
        text = text.replace(name, str(number))
    return text
