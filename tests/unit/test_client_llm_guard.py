"""The scanner for LLM Guard: its rules, against a client whose scores are given."""

import inspect
from collections.abc import Sequence
from typing import Any, Unpack

import pytest

from rejection_client import NoPositiveLabelError, Prediction, RejectionClient, llm_guard
from rejection_client._client import TextOptions
from rejection_client.llm_guard import NoRefusal, risk_score


class Scores(RejectionClient):
    """A client that gives each text the score it names, as in `0.9 of a text.`, and remembers what it was asked."""

    def __init__(self, positive_label: str | None = "no") -> None:
        super().__init__()
        self.positive_label = positive_label
        self.asked: list[tuple[list[str], int | None]] = []

    def classify_many(self, texts: Sequence[str], **options: Unpack[TextOptions]) -> list[Prediction]:
        self.asked.append((list(texts), options.get("max_length")))
        scores = [float(text.split()[0]) for text in texts]
        # The refusal is the first label here: its place says nothing.
        return [Prediction("", {"no": score, "yes": 1 - score}, 9, False, self.positive_label) for score in scores]


@pytest.mark.parametrize("output", ["", "  ", "\n\t"])
def test_a_blank_output_is_valid_and_asks_nobody(output: str) -> None:
    client = Scores()
    assert NoRefusal(client).scan("prompt", output) == (output, True, -1.0)
    assert client.asked == []


@pytest.mark.parametrize(
    ("score", "threshold", "is_valid", "risk"),
    [
        (0.99, 0.75, False, 1.0),
        (0.80, 0.75, False, 0.2),
        (0.7549, 0.75, True, 0.0),  # rounded to 0.75, which is not above 0.75
        (0.7551, 0.75, False, 0.0),  # rounded to 0.76
        (0.5, 0.75, True, -0.3),
        (0.0, 0.75, True, -1.0),
        (1.0, 1.0, True, 0.0),
        (0.004, 0.5, True, -1.0),
    ],
)
def test_scores_are_rounded_before_they_are_compared(
    score: float, threshold: float, is_valid: bool, risk: float
) -> None:
    output = f"{score} of a text"
    *found, found_risk = NoRefusal(Scores(), threshold).scan("prompt", output)
    assert found == [output, is_valid]
    assert found_risk == pytest.approx(risk)


def test_the_whole_output_is_cut_at_128_tokens() -> None:
    client = Scores()
    NoRefusal(client).scan("prompt", " 0.1 one. 0.9 two. ")
    assert client.asked == [([" 0.1 one. 0.9 two. "], 128)]


def test_the_first_sentence_above_the_threshold_decides() -> None:
    client = Scores()
    output = "  0.7 of it. 0.8 of it. 0.95 of it. "
    assert NoRefusal(client, match_type="sentence").scan("prompt", output) == (output, False, 0.2)
    assert client.asked == [(["0.7 of it.", "0.8 of it.", "0.95 of it."], 128)]


def test_the_highest_sentence_is_the_risk_of_a_valid_output() -> None:
    output = "0.3 of it. 0.6 of it. 0.1 of it."
    assert NoRefusal(Scores(), match_type="sentence").scan("prompt", output) == (output, True, -0.2)


@pytest.mark.parametrize(("score", "threshold"), [(1.0, 0.001), (0.001, 1.0), (0.0, 0.001)])
def test_the_risk_stays_within_its_bounds(score: float, threshold: float) -> None:
    assert -1 <= risk_score(score, threshold) <= 1


@pytest.mark.parametrize(
    ("options", "named"),
    [({"threshold": 0}, "threshold"), ({"threshold": 1.1}, "threshold"), ({"match_type": "word"}, "match_type")],
)
def test_options_that_cannot_be(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        NoRefusal(Scores(), **options)


def test_a_model_without_a_positive_label_cannot_be_scanned_with() -> None:
    with pytest.raises(NoPositiveLabelError, match="one of no, yes"):
        NoRefusal(Scores(None)).scan("prompt", "0.9 of a text")


def test_the_module_offers_the_scanner() -> None:
    assert llm_guard.__all__ == ["NoRefusal"]
    assert list(inspect.signature(NoRefusal.scan).parameters) == ["self", "prompt", "output"]
