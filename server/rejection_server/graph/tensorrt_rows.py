"""The rows of a batch told apart in operators that TensorRT takes: standard ones, no shape of which depends on data.

Its parser refuses Compress and NonZero, so the real tokens are moved to the front by ScatterElements; and the number of
columns comes from the shape of a further input, ``longest``, of which Triton makes as many elements as the largest
request of the batch holds (BATCH_MAX_ELEMENT_COUNT_AS_SHAPE). For requests of one text these are the longest row's; a
request of several counts all that it holds, and no row has more columns than the model takes.
"""

from onnx import NodeProto

from rejection_server.graph.rows import parse_nodes
from rejection_server.onnx_backend.token_ids import TokenIds

LONGEST = "longest"
"""The input, float32, whose shape counts and whose values mean nothing."""

# A place in front of all tokens takes whatever is none. Sums are of float32, exact below 2^24: a batch holds fewer ids.
_ROWS = """
    trt_axis0 = Constant<value_ints=[0]>()
    ragged_axis1 = Constant<value_ints=[1]>()
    trt_first_axis = Constant<value_int=0>()
    trt_second_axis = Constant<value_int=1>()
    trt_zero = Constant<value_int=0>()
    trt_one = Constant<value_int=1>()
    trt_filler = Constant<value_int=-1>()
    trt_filler_vector = Constant<value_ints=[-1]>()
    trt_last = Constant<value_ints=[-1]>()
    trt_largest = Constant<value_int=LARGEST>()
    trt_longest = Constant<value_int=LONGEST>()
    trt_longest_behind = Constant<value_int=BEHIND>()
    trt_pad = Constant<value_int=PAD>()
    trt_given = Concat<axis=0>(trt_filler_vector, input_ids)
    trt_not_below = Max(trt_given, trt_zero)
    trt_within = Min(trt_not_below, trt_largest)
    trt_is_real = Equal(trt_given, trt_within)
    trt_is_filler = Equal(trt_given, trt_filler)
    trt_is_expected = Or(trt_is_real, trt_is_filler)
    trt_is_outside = Not(trt_is_expected)
    trt_is_real_row = Unsqueeze(trt_is_real, trt_axis0)
    trt_is_outside_row = Unsqueeze(trt_is_outside, trt_axis0)
    trt_both = Concat<axis=0>(trt_is_real_row, trt_is_outside_row)
    trt_marks = Cast<to=1>(trt_both)
    trt_summed = CumSum(trt_marks, trt_second_axis)
    trt_seen = Cast<to=7>(trt_summed)
    trt_filled = Cast<to=1>(sequence_lengths)
    trt_filled_sums = CumSum(trt_filled, trt_first_axis)
    trt_filled_ends = Cast<to=7>(trt_filled_sums)
    trt_ends = Reshape(trt_filled_ends, trt_last)
    trt_at_ends = Gather<axis=1>(trt_seen, trt_ends)
    trt_nothing = Constant<value=int64[2,1]{0,0}>()
    trt_shifted = Concat<axis=1>(trt_nothing, trt_at_ends)
    trt_before = Slice(trt_shifted, trt_axis0, trt_last, ragged_axis1)
    trt_found = Sub(trt_at_ends, trt_before)
    trt_count_row = Gather<axis=0>(trt_found, trt_zero)
    trt_outside_row = Gather<axis=0>(trt_found, trt_one)
    trt_is_too_long = Greater(trt_count_row, trt_longest)
    trt_has_outside = Greater(trt_outside_row, trt_zero)
    ragged_invalid = Or(trt_is_too_long, trt_has_outside)
    trt_counts = Unsqueeze(trt_count_row, ragged_axis1)
    trt_begin_row = Gather<axis=0>(trt_before, trt_zero)
    trt_begins = Unsqueeze(trt_begin_row, ragged_axis1)
    trt_numbers = Gather<axis=0>(trt_seen, trt_zero)
    trt_places = Where(trt_is_real, trt_numbers, trt_zero)
    trt_given_shape = Shape(trt_given)
    trt_empty = ConstantOfShape<value=int64[1]{0}>(trt_given_shape)
    trt_tokens = ScatterElements<axis=0>(trt_empty, trt_places, trt_within)
    trt_all_columns = Range(trt_one, trt_longest_behind, trt_one)
    trt_given_width = Shape(longest)
    trt_one_column = Constant<value_ints=[1]>()
    trt_width = Max(trt_given_width, trt_one_column)
    trt_columns = Slice(trt_all_columns, trt_axis0, trt_width, trt_axis0)
    trt_at_least_one = Max(trt_counts, trt_one)
    trt_is_inside = LessOrEqual(trt_columns, trt_at_least_one)
    trt_is_token = LessOrEqual(trt_columns, trt_counts)
    trt_behind = Add(trt_begins, trt_columns)
    trt_from = Where(trt_is_token, trt_behind, trt_zero)
    trt_gathered = Gather(trt_tokens, trt_from)
    trt_real_ids = Where(trt_is_token, trt_gathered, trt_zero)
    row_input_ids = Where(trt_is_inside, trt_real_ids, trt_pad)
    row_attention_mask = Cast<to=7>(trt_is_inside)
    row_shape = Shape(row_input_ids)
    row_token_type_ids = ConstantOfShape<value=int64[1]{0}>(row_shape)
"""


def tensorrt_rows(accepted: TokenIds, pad_id: int) -> list[NodeProto]:
    """Nodes from ``input_ids``, ``sequence_lengths`` and ``longest`` to a padded classifier's inputs, all int64.

    ``row_input_ids``, ``row_attention_mask`` and ``row_token_type_ids`` are [rows, columns]; ``ragged_invalid`` [rows]
    says which rows hold what the model does not take.
    """
    text = _ROWS
    numbers = {"LARGEST": accepted.vocabulary_size - 1, "LONGEST": accepted.longest_row}
    numbers |= {"BEHIND": accepted.longest_row + 1, "PAD": pad_id}
    for name, number in numbers.items():
        text = text.replace(f"={name}>", f"={number}>")
    return parse_nodes(text)
