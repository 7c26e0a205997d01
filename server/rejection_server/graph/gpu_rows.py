"""The rows of a batch told apart on a GPU: what :mod:`rejection_server.graph.rows` does, in operators that suit it.

onnxruntime leaves reductions to cuDNN, which need not be there, and its CUDA kernel for cumulative sums adds up each
from the beginning. So the tokens are counted in a grid [rows, columns], whose rows are short, and nothing is reduced.
The processor waits for the GPU twice, for the number of columns and for the number of tokens.
"""

from onnx import NodeProto

from rejection_server.graph.rows import parse_nodes
from rejection_server.onnx_backend.token_ids import TokenIds

# The grid holds the rows as they are given, filler included, and -1 behind a row's end. An id out of range counts as
# more tokens than a row may hold. A row of none or too many gets one token: its answer is that of the token 0, or NaN.
# TopK does not need cuDNN, as ReduceMax does.
_ROWS = """
    ragged_axis1 = Constant<value_ints=[1]>()
    gpu_axis0 = Constant<value_int=0>()
    gpu_axis1 = Constant<value_int=1>()
    gpu_zero = Constant<value_int=0>()
    gpu_one = Constant<value_int=1>()
    gpu_filler = Constant<value_int=-1>()
    gpu_zero_vector = Constant<value_ints=[0]>()
    gpu_one_vector = Constant<value_ints=[1]>()
    gpu_filler_vector = Constant<value_ints=[-1]>()
    gpu_last = Constant<value_ints=[-1]>()
    gpu_end = Constant<value_ints=[9223372036854775807]>()
    gpu_largest = Constant<value_int=LARGEST>()
    gpu_longest = Constant<value_int=LONGEST>()
    gpu_longest_vector = Constant<value_ints=[LONGEST]>()
    gpu_too_many = Constant<value_int=TOO_MANY>()
    gpu_filled = Cast<to=7>(sequence_lengths)
    gpu_filled_before = CumSum<exclusive=1>(gpu_filled, gpu_axis0)
    gpu_filled_row = Reshape(gpu_filled, gpu_last)
    gpu_longest_filled, gpu_longest_row = TopK(gpu_filled_row, gpu_one_vector)
    gpu_one_or_more = Max(gpu_longest_filled, gpu_one)
    gpu_width = Squeeze(gpu_one_or_more)
    gpu_behind_last = Add(gpu_width, gpu_one)
    gpu_columns = Range(gpu_one, gpu_behind_last, gpu_one)
    gpu_is_inside = LessOrEqual(gpu_columns, gpu_filled)
    gpu_behind_filler = Add(gpu_filled_before, gpu_columns)
    gpu_places = Where(gpu_is_inside, gpu_behind_filler, gpu_zero)
    gpu_given = Concat<axis=0>(gpu_filler_vector, input_ids)
    gpu_grid = Gather(gpu_given, gpu_places)
    gpu_within = Clip(gpu_grid, gpu_filler, gpu_largest)
    gpu_is_within = Equal(gpu_grid, gpu_within)
    gpu_is_real = GreaterOrEqual(gpu_grid, gpu_zero)
    gpu_real_ones = Cast<to=7>(gpu_is_real)
    gpu_weights = Where(gpu_is_within, gpu_real_ones, gpu_too_many)
    gpu_seen = CumSum(gpu_weights, gpu_axis1)
    gpu_counts = Slice(gpu_seen, gpu_last, gpu_end, gpu_one_vector)
    gpu_possible = Clip(gpu_counts, gpu_one, gpu_longest)
    gpu_fits = Equal(gpu_counts, gpu_possible)
    gpu_lengths = Where(gpu_fits, gpu_counts, gpu_one)
    gpu_is_first = Equal(gpu_columns, gpu_one)
    gpu_first_ones = Cast<to=7>(gpu_is_first)
    gpu_kept = Where(gpu_fits, gpu_real_ones, gpu_first_ones)
    gpu_numbers = Where(gpu_fits, gpu_seen, gpu_one)
    gpu_ids = Clip(gpu_grid, gpu_zero, gpu_largest)
    gpu_kept_flat = Reshape(gpu_kept, gpu_last)
    gpu_token_row = NonZero(gpu_kept_flat)
    gpu_token_places = Reshape(gpu_token_row, gpu_last)
    gpu_ids_flat = Reshape(gpu_ids, gpu_last)
    gpu_tokens = Gather(gpu_ids_flat, gpu_token_places)
    gpu_before = CumSum<exclusive=1>(gpu_lengths, gpu_axis0)
    gpu_is_too_long = Greater(gpu_counts, gpu_longest)
    ragged_invalid = Squeeze(gpu_is_too_long, ragged_axis1)
"""
_TOO_MANY = 1 << 24


def gpu_rows(accepted: TokenIds) -> list[NodeProto]:
    """Nodes from ``input_ids`` and ``sequence_lengths`` to the tokens of all rows, t in number; all are int64.

    ``gpu_tokens`` [t] are they, ``gpu_lengths`` [rows, 1] how many each row has, ``gpu_before`` [rows, 1] how many
    stand before it. ``gpu_kept`` [rows, columns] is 1 where the grid holds a token and 0 elsewhere,
    ``gpu_token_places`` [t] are these places, ``gpu_ids`` and ``gpu_numbers`` [rows, columns] the id there and its
    number in its row, from 1. ``gpu_columns`` [columns] number the columns from 1: as many as the longest row takes
    with its filler.
    """
    text = _ROWS
    numbers = {"LARGEST": accepted.vocabulary_size - 1, "LONGEST": accepted.longest_row, "TOO_MANY": _TOO_MANY}
    for name, number in numbers.items():
        text = text.replace(name, str(number))
    return parse_nodes(text)
