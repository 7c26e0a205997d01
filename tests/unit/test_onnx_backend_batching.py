"""Merging requests into one onnxruntime call and splitting its outputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rejection_server.onnx_backend.batching import BatchPlan, OutputPlan, batch_input_tensor, merge, split
from rejection_server.onnx_backend.config import BatchInput

SHAPES = [(1, 3), (2, 5), (1, 4)]
ROWS_OF_Y = (OutputPlan("y", (-1,), None),)


def plan(
    *,
    batching: bool = True,
    ragged: Sequence[str] = (),
    scalars: Sequence[str] = (),
    batch_inputs: Sequence[BatchInput] = (),
    outputs: Sequence[OutputPlan] = ROWS_OF_Y,
) -> BatchPlan:
    return BatchPlan(batching, frozenset(ragged), frozenset(scalars), tuple(batch_inputs), tuple(outputs))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("BATCH_ELEMENT_COUNT", [3, 10, 4]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT", [3, 13, 17]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", [0, 3, 13, 17]),
        ("BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", [0] * 10),
        ("BATCH_ITEM_SHAPE", [[3], [5], [5], [4]]),
        ("BATCH_ITEM_SHAPE_FLATTEN", [3, 5, 5, 4]),
    ],
)
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_batch_input_of_each_kind(kind: str, dtype: str, expected: Any) -> None:
    tensor = batch_input_tensor(kind, dtype, SHAPES)
    assert tensor.dtype == dtype
    assert tensor.tolist() == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("BATCH_ITEM_SHAPE", [[2, 3], [4, 5]]), ("BATCH_ITEM_SHAPE_FLATTEN", [2, 3, 4, 5])],
)
def test_item_shapes_of_rank_three(kind: str, expected: Any) -> None:
    assert batch_input_tensor(kind, "int32", [(1, 2, 3), (1, 4, 5)]).tolist() == expected


def test_unknown_batch_input_kind() -> None:
    with pytest.raises(ValueError, match="BATCH_NONSENSE"):
        batch_input_tensor("BATCH_NONSENSE", "int32", SHAPES)


def test_ragged_inputs_become_one_dimension_in_request_order() -> None:
    items = [{"ids": np.arange(3).reshape(1, 3)}, {"ids": np.arange(10, 14).reshape(2, 2)}]
    lengths = BatchInput("BATCH_ITEM_SHAPE", "int32", "ids", ("lengths", "lengths_again"))
    feed = merge(plan(ragged=["ids"], batch_inputs=[lengths]), items)
    assert feed["ids"].tolist() == [0, 1, 2, 10, 11, 12, 13]
    assert feed["lengths"].tolist() == [[3], [2], [2]]
    assert feed["lengths_again"].tolist() == [[3], [2], [2]]


def test_other_inputs_are_stacked() -> None:
    items = [{"x": np.zeros((1, 2)), "m": np.ones((1, 3))}, {"m": np.ones((2, 3)), "x": np.ones((2, 2))}]
    feed = merge(plan(), items)
    assert feed["x"].tolist() == [[0, 0], [1, 1], [1, 1]]
    assert feed["m"].shape == (3, 3)


def test_a_single_request_is_not_copied() -> None:
    item = {"x": np.zeros((1, 2)), "ids": np.arange(4).reshape(1, 4)}
    feed = merge(plan(ragged=["ids"]), [item])
    assert feed["x"] is item["x"]
    assert np.shares_memory(feed["ids"], item["ids"])
    assert feed["ids"].shape == (4,)


def test_scalar_inputs_lose_their_dimension() -> None:
    assert merge(plan(batching=False, scalars=["x"]), [{"x": np.array([7.0])}])["x"].shape == ()


def test_shapes_that_do_not_fit_together() -> None:
    with pytest.raises(ValueError, match="dimension"):
        merge(plan(), [{"x": np.zeros((1, 2))}, {"x": np.zeros((1, 3))}])


def test_each_request_gets_its_rows() -> None:
    items = [{"x": np.zeros((2, 1))}, {"x": np.zeros((1, 1))}]
    outputs = (OutputPlan("y", (2,), None), OutputPlan("z", (1,), None))
    y, z = np.arange(6).reshape(3, 2), np.array([[7], [8], [9]])
    first, second = split(plan(outputs=outputs), [y, z], items)
    assert [array.tolist() for array in first] == [[[0, 1], [2, 3]], [[7], [8]]]
    assert [array.tolist() for array in second] == [[[4, 5]], [[9]]]


def test_output_with_a_wrong_number_of_rows() -> None:
    with pytest.raises(ValueError, match="output 'y' has 4 rows, the batch has 3"):
        split(plan(), [np.zeros((4, 1))], [{"x": np.zeros((2, 1))}, {"x": np.zeros((1, 1))}])


def test_without_batching_outputs_are_whole_and_scalars_take_the_configured_shape() -> None:
    outputs = (OutputPlan("y", (-1,), None), OutputPlan("z", (1, 1), None))
    [[y, z]] = split(plan(batching=False, outputs=outputs), [np.arange(3), np.array(5)], [{"x": np.zeros(7)}])
    assert y.tolist() == [0, 1, 2]
    assert z.tolist() == [[5]]


def test_scattered_outputs_take_the_shape_of_their_source() -> None:
    items = [{"ids": np.zeros((1, 3))}, {"ids": np.zeros((2, 2))}]
    [[first], [second]] = split(plan(outputs=(OutputPlan("y", (-1,), "ids"),)), [np.arange(7)], items)
    assert first.tolist() == [[0, 1, 2]]
    assert second.tolist() == [[3, 4], [5, 6]]


def test_scattered_output_that_is_too_short() -> None:
    items = [{"ids": np.zeros((1, 3))}]
    with pytest.raises(ValueError, match="output 'y' has 2 elements, its requests need 3"):
        split(plan(outputs=(OutputPlan("y", (-1,), "ids"),)), [np.arange(2)], items)
