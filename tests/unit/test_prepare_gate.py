"""The gate's comparison, on made-up answers."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rejection_server.prepare import gate
from rejection_server.prepare.answers import Answers
from rejection_server.prepare.build import Precision
from rejection_server.prepare.edges import edge_texts
from rejection_server.prepare.errors import GateError
from rejection_server.prepare.reference import Answer


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


TEXTS = ["one", "two"]
SAID = Answers(("calm", "loud"), ((1, 7, 2), (1, 8, 2)), (3, 9), np.array([[4.0, 0], [0, 4]]), pairs(0.98, 0.02))


@pytest.mark.parametrize(
    ("served", "says"),
    [
        (SAID, []),
        (replace(SAID, labels=("loud", "calm")), ["the labels are loud, calm, not calm, loud"]),
        (
            replace(SAID, ids=((1, 7, 2), tuple(range(20)))),
            [
                "1 of 2 texts have other tokens, such as 'two': 0 1 2 3 4 5 ... 15 16 17 18 19 instead of 1 8 2",
            ],
        ),
        (replace(SAID, token_counts=(3, 8)), ["1 of 2 texts have another number of tokens, such as 'two': 8 instead"]),
        (replace(SAID, scores=pairs(0.98, np.nan)), ["an answer is not a number"]),
    ],
    ids=["nothing", "labels", "ids", "counts", "nan"],
)
def test_what_may_differ_in_no_precision(served: Answers, says: list[str]) -> None:
    found = gate.mistakes(SAID, served, TEXTS, 9)
    assert len(found) == len(says)
    assert all(sentence.startswith(start) for sentence, start in zip(found, says, strict=True))


def test_long_texts_are_counted_as_far_as_they_are_read() -> None:
    for count, passes in ((9, True), (8, True), (6, True), (5, False), (10, False)):
        assert (not gate.mistakes(SAID, replace(SAID, token_counts=(3, count)), TEXTS, 6)) == passes


def test_logits_differ_where_saturated_scores_do_not() -> None:
    shifted = replace(SAID, logits=SAID.logits + np.array([[0.01, 0], [0, 0]]))
    assert gate.logit_failures(SAID, SAID) == []
    assert gate.logit_failures(SAID, shifted) == ["a logit differs by 0.01, at most 0.004 is allowed"]


def test_raw_scores_are_compared_by_their_size() -> None:
    reference = np.array([[200.0], [-50]])
    figures = gate.compare(reference, reference + 0.01, [5, 5], "none")[-1]
    assert (figures.agreement, round(figures.largest, 9)) == (1, 5e-5)
    several = np.array([[3.0, 1, 2], [0, 5, 4.99]])
    total = gate.compare(several, several[:, [0, 2, 1]], [5, 5], "none")[-1]
    assert (total.agreement, total.agreement_clear) == (0.5, 1), "the second text's lead is next to nothing"


def test_edge_cases_have_bounds_of_their_own() -> None:
    scores = pairs(*[0.9] * 200, *[0.8] * 20)
    expected = Answers(("a", "b"), ((1,),) * 220, (5,) * 220, scores, scores)
    for wrong, precision, passes in (
        (0.75, "int8", True),
        (0.1, "int8", False),
        (0.79995, "fp32", True),
        (0.75, "fp32", False),
    ):
        changed = scores.copy()
        changed[-2:] = [wrong, 1 - wrong]
        found = replace(expected, scores=changed)
        figures = gate.compare_all(expected.scores, found.scores, expected.token_counts, 20, "softmax")
        assert [figure.tokens for figure in figures] == ["1-16", gate.EDGE_CASES, "all"]
        assert (figures[-1].texts, figures[-1].largest) == (200, 0)
        assert (not gate.failures(figures, gate.THRESHOLDS[precision])) == passes


def test_the_original_names_its_scores() -> None:
    answers = [Answer((1, 2), 2, (0.0, 1.0), {"loud": 0.7, "calm": 0.3})]
    assert Answers.expected(answers, ("calm", "loud")).scores.tolist() == [[0.3, 0.7]]
    with pytest.raises(GateError, match="answers with the labels calm, loud, but id2label names a, b"):
        Answers.expected(answers, ("a", "b"))


def test_edge_texts() -> None:
    texts = edge_texts(["<s>", "</s>", "<s>"], filling_tokens=10, longest=128)
    assert len(texts) == len(set(texts))
    assert {"", " ", "\n", "\x00", "<s>", "one<s></s>two"} <= set(texts)
    assert max(len(text.split()) for text in texts) >= 2 * 128
    assert sum("<s>" in text for text in texts) >= 5
