"""What all forms of the served graph begin and end with: the rows of a batch told apart, each with its own answer.

Triton's own backend cannot refuse one request of a batch, so the graph is safe by itself: whatever ids a row holds, and
however many, the others' scores do not change, and no row makes the execution fail.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

from rejection_server.onnx_backend.token_ids import LONGEST_ROW, VOCABULARY_SIZE, TokenIds

Activation = Literal["softmax", "sigmoid", "none"]
"""What makes `probabilities` of the logits; with none they are the raw scores, as a regression gives them."""
_ACTIVATIONS: dict[Activation, tuple[str, dict[str, int]]] = {
    "softmax": ("Softmax", {"axis": -1}),
    "sigmoid": ("Sigmoid", {}),
    "none": ("Identity", {}),
}

INPUT_IDS = "input_ids"
SEQUENCE_LENGTHS = "sequence_lengths"
LOGITS = "logits"
PROBABILITIES = "probabilities"

# Rows of one request arrive filled up to the longest of them with -1. Here the filler is dropped: `ragged_tokens` are
# the real tokens of all rows behind the one token 0, `ragged_lengths` their number in each row, `ragged_starts` and
# `ragged_ends` where each row begins and ends among them. A row without any gets the token 0 that stands in front, as
# the tokenizer would give it. Ids out of range are dropped, what is too long is cut: `ragged_invalid` are these rows.
# One running sum counts both: real tokens as 1, ids out of range as 2^32, which no row is long enough to reach.
_REAL_TOKENS = """
    ragged_axis0 = Constant<value_ints=[0]>()
    ragged_axis1 = Constant<value_ints=[1]>()
    ragged_zero = Constant<value_int=0>()
    ragged_one = Constant<value_int=1>()
    ragged_nothing = Constant<value_ints=[0]>()
    ragged_behind_stand_in = Constant<value_ints=[1]>()
    ragged_last = Constant<value_ints=[-1]>()
    ragged_filler = Constant<value_int=-1>()
    ragged_largest = Constant<value_int=LARGEST>()
    ragged_longest_row = Constant<value_int=LONGEST>()
    ragged_outside = Constant<value_int=4294967296>()
    ragged_given = Concat<axis=0>(ragged_nothing, input_ids)
    ragged_within = Clip(ragged_given, ragged_zero, ragged_largest)
    ragged_real = Equal(ragged_given, ragged_within)
    ragged_tokens = Compress<axis=0>(ragged_given, ragged_real)
    ragged_is_filler = Equal(ragged_given, ragged_filler)
    ragged_is_expected = Or(ragged_real, ragged_is_filler)
    ragged_ones = Cast<to=7>(ragged_real)
    ragged_marks = Where(ragged_is_expected, ragged_ones, ragged_outside)
    ragged_seen = CumSum(ragged_marks, ragged_zero)
    ragged_filled32 = Squeeze(sequence_lengths, ragged_axis1)
    ragged_filled = Cast<to=7>(ragged_filled32)
    ragged_filled_ends = CumSum(ragged_filled, ragged_zero)
    ragged_seen_at_ends = Gather(ragged_seen, ragged_filled_ends)
    ragged_but_last = Slice(ragged_seen_at_ends, ragged_nothing, ragged_last, ragged_axis0)
    ragged_seen_before = Concat<axis=0>(ragged_behind_stand_in, ragged_but_last)
    ragged_found = Sub(ragged_seen_at_ends, ragged_seen_before)
    ragged_invalid = Greater(ragged_found, ragged_longest_row)
    ragged_counts = Mod(ragged_found, ragged_outside)
    ragged_is_empty = Less(ragged_counts, ragged_one)
    ragged_begins = Mod(ragged_seen_before, ragged_outside)
    ragged_starts = Where(ragged_is_empty, ragged_zero, ragged_begins)
    ragged_lengths = Clip(ragged_counts, ragged_one, ragged_longest_row)
    ragged_ends = Add(ragged_starts, ragged_lengths)
"""


def parse_nodes(text: str) -> list[NodeProto]:
    """Nodes written in ONNX's textual syntax."""
    nodes: list[NodeProto] = list(parser.parse_graph(f"g (float x) => (float x) {{ {text} }}").node)
    return nodes


def real_tokens(accepted: TokenIds) -> list[NodeProto]:
    """Nodes from ``input_ids`` and ``sequence_lengths`` to the rows' real tokens."""
    largest, longest = f"={accepted.vocabulary_size - 1}>", f"={accepted.longest_row}>"
    return parse_nodes(_REAL_TOKENS.replace("=LARGEST>", largest).replace("=LONGEST>", longest))


def scores(logits: str, activation: Activation) -> list[NodeProto]:
    """Nodes from float32 [rows, labels] to the outputs, which are NaN for a row that is not what the graph accepts.

    A number would look like an answer.
    """
    nan = numpy_helper.from_array(np.float32(np.nan))
    operator, attributes = _ACTIVATIONS[activation]
    return [
        helper.make_node("Constant", [], ["ragged_nan"], value=nan),
        *parse_nodes("ragged_invalid_column = Unsqueeze(ragged_invalid, ragged_axis1)"),
        helper.make_node("Where", ["ragged_invalid_column", "ragged_nan", logits], [LOGITS]),
        helper.make_node(operator, [LOGITS], [PROBABILITIES], **attributes),
    ]


def served_graph(
    nodes: Sequence[NodeProto], name: str, labels: int, initializers: Sequence[TensorProto] = ()
) -> GraphProto:
    """The graph of these nodes, with the inputs and outputs that every form has."""
    value = helper.make_tensor_value_info
    return helper.make_graph(
        nodes,
        name,
        [value(INPUT_IDS, TensorProto.INT64, ["tokens"]), value(SEQUENCE_LENGTHS, TensorProto.INT32, ["rows", 1])],
        [value(output, TensorProto.FLOAT, ["rows", labels]) for output in (LOGITS, PROBABILITIES)],
        initializers,
    )


def tell(model: ModelProto, accepted: TokenIds) -> None:
    """Write into the model's metadata what it accepts, which the stand-in backend refuses by."""
    helper.set_model_props(
        model, {VOCABULARY_SIZE: str(accepted.vocabulary_size), LONGEST_ROW: str(accepted.longest_row)}
    )
