"""The comparison that a machine with a GPU makes again."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rejection_server.prepare import gate
from rejection_server.prepare.recorded import BATCH, Recorded, compare_again

ROWS = [list(range(5, 6 + i % 9)) for i in range(2 * BATCH + 3)]
LOGITS = np.stack([np.array([len(row), 4.0]) for row in ROWS])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    facts = {"activation": "softmax", "gate": {"thresholds": asdict(gate.THRESHOLDS["fp16"])}}
    (tmp_path / "model.json").write_text(json.dumps(facts))
    Recorded(ROWS, LOGITS).write(tmp_path)
    return tmp_path


def probabilities(feed: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Of a graph whose first logit is the length of the row."""
    lengths = feed["sequence_lengths"]
    assert lengths.shape == (len(lengths), 1)
    assert (lengths.dtype.name, feed["input_ids"].dtype.name) == ("int32", "int64")
    assert lengths.sum() == len(feed["input_ids"])
    logits = np.concatenate([lengths, np.full_like(lengths, 4)], axis=1)
    return gate.probabilities_of(logits.astype(np.float64), "softmax").astype(np.float32)


def test_what_was_written_is_read(folder: Path) -> None:
    recorded = Recorded.read(folder)
    assert list(recorded.rows) == ROWS
    np.testing.assert_allclose(recorded.logits, LOGITS)


def test_the_same_answers_pass(folder: Path) -> None:
    figures, missed = compare_again(folder, probabilities)
    assert missed == []
    assert figures[-1].texts == len(ROWS)
    assert figures[-1].largest < 1e-6


def test_other_answers_are_told(folder: Path) -> None:
    _, missed = compare_again(folder, lambda feed: probabilities(feed)[:, ::-1])
    assert len(missed) == 3
    with pytest.raises(ValueError, match="not a number"):
        compare_again(folder, lambda feed: probabilities(feed) * np.nan)


def test_a_folder_without_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Recorded.read(tmp_path)
