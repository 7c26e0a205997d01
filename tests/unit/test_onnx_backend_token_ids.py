"""Which requests of a batch hold ids that are no text; each is judged as if it were alone."""

from collections.abc import Sequence

import numpy as np
import pytest

from rejection_server.onnx_backend.token_ids import TokenIds

ACCEPTED = TokenIds(vocabulary_size=10, longest_row=3)
GOOD = [[0, 9]]
FILLED = [[5, -1, -1], [1, 2, 3]]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (GOOD, None),
        (FILLED, None),
        ([[-1, 5, -1, 6, 7]], None),
        ([[4], [10]], "in row 1 hold 10;"),
        ([[-2]], "in row 0 hold -2;"),
        ([[]], "in row 0 hold no token;"),
        ([[4, 4], [-1, -1]], "in row 1 hold no token;"),
        ([[1, 2, 3, 4]], "in row 0 hold 4 tokens;"),
    ],
)
@pytest.mark.parametrize("beside", [[GOOD, GOOD], [GOOD, FILLED]], ids=["plain", "filled"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_fault_is_the_request_s_own(
    rows: list[list[int]], fault: str | None, beside: Sequence[list[list[int]]], place: int
) -> None:
    batch = [*beside[:place], rows, *beside[place:]]
    faults = ACCEPTED.faults([np.array(ids, np.int64) for ids in batch])
    found = faults.pop(place)
    assert found is None if fault is None else found is not None and fault in found
    assert faults == [None, None]


def test_an_empty_batch_has_no_faults() -> None:
    assert ACCEPTED.faults([]) == []
