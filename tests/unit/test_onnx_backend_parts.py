"""A batch of many rows runs in parts, on as many threads as the model has instances; with the real onnxruntime."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from integration import onnx_backend_models as models
from rejection_server.onnx_backend.instance import Failure, Instance
from rejection_server.onnx_backend.parts import cut, join
from support.onnx_instance import GATHER, RAGGED, infer, load


def load_parted(folder: Path, model: ModelProto, rows_per_run: int, instances: int = 2, **more: Any) -> Instance:
    groups = [{"kind": "KIND_CPU", "count": instances}]
    return load(folder, model, parameters={"rows_per_run": str(rows_per_run)}, instance_group=groups, **more)


def part_threads() -> int:
    return sum(thread.name.startswith("part") for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("sizes", "pieces"),
    [
        ([3], [[(0, 3)]]),
        ([9], [[(0, 4)], [(0, 4)], [(0, 1)]]),
        ([1, 2, 6, 1], [[(0, 1), (1, 2), (2, 1)], [(2, 4)], [(2, 1), (3, 1)]]),
        ([4, 4], [[(0, 4)], [(1, 4)]]),
    ],
)
def test_parts_are_consecutive_rows(sizes: list[int], pieces: list[list[tuple[int, int]]]) -> None:
    items = [{"x": np.full((size, 2), size), "y": np.arange(size)[:, None]} for size in sizes]
    parts = cut(items, 4)
    assert [[(piece.index, len(piece.item["x"])) for piece in part] for part in parts] == pieces
    flat = [piece for part in parts for piece in part]
    again = join(flat, [(piece.item["x"], piece.item["y"]) for piece in flat], len(items))
    for item, (x, y) in zip(items, again, strict=True):
        assert x.tolist() == item["x"].tolist()
        assert y.tolist() == item["y"].tolist()


def test_a_large_request_runs_in_parts(tmp_path: Path) -> None:
    before = part_threads()
    instance = load_parted(tmp_path, models.ragged_sum(), rows_per_run=4, **RAGGED)
    wide, narrow = np.arange(18).reshape(9, 2), np.arange(3).reshape(1, 3)
    (total, count), (other_total, other_count) = infer(instance, [{"ids": wide}, {"ids": narrow}])
    assert total.ravel().tolist() == wide.sum(axis=1).tolist()
    assert other_total.tolist() == [[3.0]]
    # The model shows the elements of its whole run: four rows of two, twice, and a row of two with one of three.
    assert count.ravel().tolist() == [8] * 8 + [5]
    assert other_count.tolist() == [[5]]
    assert part_threads() - before == 2


@pytest.mark.parametrize(
    ("rows_per_run", "instances"),
    [(9, 2), (0, 2), (4, 1)],
    ids=["not more rows", "off", "no other instance"],
)
def test_otherwise_a_batch_is_one_run(tmp_path: Path, rows_per_run: int, instances: int) -> None:
    instance = load_parted(tmp_path, models.ragged_sum(), rows_per_run, instances, **RAGGED)
    [(_, count)] = infer(instance, [{"ids": np.arange(18).reshape(9, 2)}])
    assert count.ravel().tolist() == [18] * 9


def test_a_part_that_fails_takes_only_its_own_request_along(tmp_path: Path) -> None:
    instance = load_parted(tmp_path, models.gather(), rows_per_run=2, **GATHER)
    good, bad, also_good = infer(instance, [{"index": np.array([[i]] * 3)} for i in (1, 9, 3)])
    assert good[0].tolist() == [[11.0]] * 3
    assert isinstance(bad, Failure)
    assert "idx=9" in bad.message
    assert also_good[0].tolist() == [[13.0]] * 3
