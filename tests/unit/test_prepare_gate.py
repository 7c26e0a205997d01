"""The gate's comparison, on made-up probabilities."""

import numpy as np
import pytest
from numpy.typing import NDArray

from rejection_server.prepare import gate
from rejection_server.prepare.build import Precision


def pairs(*first: float) -> NDArray[np.float64]:
    return np.array([[p, 1 - p] for p in first])


def test_probabilities() -> None:
    logits = np.array([[1.0, 3.0], [800.0, 0.0]])
    np.testing.assert_allclose(gate.probabilities_of(logits, "softmax").sum(axis=1), 1)
    np.testing.assert_allclose(gate.probabilities_of(np.array([[0.0, 2.0]]), "sigmoid"), [[0.5, 0.880797]], atol=1e-6)


def test_figures_by_length() -> None:
    reference, served = pairs(0.9, 0.2, 0.6, 0.3), pairs(0.8, 0.2, 0.4, 0.3)
    figures = gate.compare(reference, served, [1, 16, 17, 700], "softmax")
    assert [(f.tokens, f.texts) for f in figures] == [("1-16", 2), ("17-64", 1), ("257 and more", 1), ("all", 4)]
    assert [f.agreement for f in figures] == [1, 0, 1, 0.75]
    np.testing.assert_allclose([f.largest for f in figures], [0.1, 0.2, 0, 0.2])
    np.testing.assert_allclose([f.mean for f in figures], [0.05, 0.2, 0, 0.075])


@pytest.mark.parametrize(("reference", "served", "clear"), [(0.509, 0.491, 1), (0.511, 0.491, 0.5)])
def test_borderline_texts_count_only_where_asked(reference: float, served: float, clear: float) -> None:
    total = gate.compare(pairs(reference, 0.1), pairs(served, 0.1), [5, 5], "softmax")[-1]
    assert (total.agreement, total.agreement_clear) == (0.5, clear)


def test_every_label_of_a_multi_label_model_has_to_agree() -> None:
    reference, served = np.array([[0.9, 0.8, 0.1]]), np.array([[0.9, 0.4, 0.1]])
    assert gate.compare(reference, served, [5], "sigmoid")[-1].agreement == 0
    assert gate.compare(reference, served, [5], "softmax")[-1].agreement == 1


def test_answers_that_are_no_numbers_are_never_equal() -> None:
    with pytest.raises(ValueError, match="not a number"):
        gate.compare(pairs(0.5), np.array([[np.nan, 0.5]]), [3], "softmax")


@pytest.mark.parametrize(
    ("precision", "served", "says"),
    [
        ("fp32", 0.90009, []),
        ("fp32", 0.9002, ["a probability differs by 0.0002", "on average"]),
        ("fp16", 0.909, []),
        ("fp16", 0.911, ["a probability differs by 0.011", "on average"]),
        ("int8", 0.909, []),
        ("int8", 0.92, ["differ by 0.02 on average"]),
        ("int8", 0.4, ["0.00% of the texts", "on average"]),
    ],
)
def test_thresholds(precision: Precision, served: float, says: list[str]) -> None:
    figures = gate.compare(pairs(0.9), pairs(served), [9], "softmax")
    missed = gate.failures(figures, gate.THRESHOLDS[precision])
    assert len(missed) == len(says)
    assert all(word in sentence for word, sentence in zip(says, missed, strict=True))


def test_int8_may_change_one_label_in_two_hundred() -> None:
    reference = pairs(*[0.6] * 400)
    for changed, passes in ((2, True), (3, False)):
        served = reference.copy()
        served[:changed] = [0.49, 0.51]
        missed = gate.failures(gate.compare(reference, served, [9] * 400, "softmax"), gate.THRESHOLDS["int8"])
        assert (not missed) == passes


def test_table() -> None:
    lines = gate.table(gate.compare(pairs(0.9), pairs(0.8), [9], "softmax")).splitlines()
    assert lines[0] == "| tokens | texts | same label | largest difference | mean difference |"
    assert lines[-1] == "| all    |     1 |    100.00% |           1.00e-01 |        1.00e-01 |"
    assert len({len(line) for line in lines}) == 1
