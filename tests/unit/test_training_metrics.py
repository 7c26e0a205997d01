"""Quality figures against values worked out by hand."""

import numpy as np
import pytest

from training import metrics


def test_scores_by_hand() -> None:
    result = metrics.scores([1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0])
    assert (result.rows, result.positives) == (8, 3)
    assert result.accuracy == pytest.approx(6 / 8)
    assert result.precision == pytest.approx(2 / 3)
    assert result.recall == pytest.approx(2 / 3)
    assert result.f1 == pytest.approx(2 / 3)


def test_scores_without_positives_are_zero() -> None:
    assert metrics.scores([0, 0], [0, 0]).f1 == 0.0


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.1, 0.9], [0.1, 0.9], [0.1, 0.9], [0.1, 0.9], [0.7, 0.3], [0.3, 0.7]])
    # 4 rows at 0.9 of which 3 are right: off by 0.15; 2 rows at 0.7 of which 1 is right: off by 0.2
    error = metrics.expected_calibration_error([1, 1, 1, 0, 0, 0], probabilities)
    assert error == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.2)


def test_the_temperature_that_made_the_labels_is_found() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((20_000, 2)) * 2
    labels = (random.random(20_000) < metrics.softmax(logits)[:, 1]).astype(int)
    assert metrics.best_temperature(list(labels), logits * 3) == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize(
    ("text", "refused"),
    [("I can’t\nhelp", 1), ("I CANNOT assist", 1), ("Sure, here is how", 0), ("It isn't possible, cannot be", 0)],
)
def test_keywords(text: str, refused: int) -> None:
    assert metrics.keyword_refusal(text) == refused
