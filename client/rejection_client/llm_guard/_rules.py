"""How LLM Guard's scanners judge what a classifier says of the parts of a text: one table, no network.

The rules are those of LLM Guard 0.3.16, which its documentation describes (https://protectai.github.io/llm-guard/) and
its source settles where that says nothing: which labels count, what is rounded, and which part's score is the risk.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from rejection_client._prediction import Prediction, needed
from rejection_client.errors import UnexpectedAnswerError

Verdict = tuple[bool, float]
"""Whether the text is valid, and its risk: -1 to 1, above 0 where it is not."""


class Rule(NamedTuple):
    """What a scanner goes by."""

    judge: Callable[[Sequence[Prediction], Collection[str] | None, float], Verdict]
    """Judges the parts of a text by these labels and a threshold."""

    labels: Collection[str] | None = None
    """Labels that mean a risk, by the names that the published model has; None where that is told elsewhere: the
    model's positive label, or the languages that are valid."""

    max_length: int = 512
    """Tokens of a part that are read."""

    match_types: Sequence[str] = ("full", "sentence")
    """What parts there may be."""

    function: str | None = None
    """What must have made the scores, where it is not for the model to say."""


def risk_score(score: float, threshold: float) -> float:
    """How far the score is above the threshold (0 to 1) or below it (-1 to 0), as a share of how far it could be."""
    distance = score - threshold
    risk = round(distance / (1 - threshold if distance > 0 else threshold), 1)
    return min(max(risk, -1.0), 1.0)


def first_above(predictions: Sequence[Prediction], labels: Collection[str] | None, threshold: float) -> Verdict:
    """The first part whose rounded score is above the threshold decides; without one, the highest is the risk."""
    highest = 0.0
    for prediction in predictions:
        score = _rounded_score(prediction, labels)
        highest = max(highest, score)
        if score > threshold:
            return False, risk_score(score, threshold)
    return True, risk_score(highest, threshold)


def highest_above(predictions: Sequence[Prediction], labels: Collection[str] | None, threshold: float) -> Verdict:
    """The part with the highest rounded score decides."""
    highest = max((_rounded_score(prediction, labels) for prediction in predictions), default=0.0)
    return highest <= threshold, risk_score(highest, threshold)


def any_label_above(predictions: Sequence[Prediction], labels: Collection[str] | None, threshold: float) -> Verdict:
    """The highest score, as it is, of any of the labels decides."""
    scores = [prediction.scores[label] for prediction in predictions for label in _known(prediction, labels)]
    highest = max(scores, default=0.0)
    return highest <= threshold, risk_score(highest, threshold)


def others_above(predictions: Sequence[Prediction], labels: Collection[str] | None, threshold: float) -> Verdict:
    """The first part with a label above the threshold that is none of these decides; its highest score is the risk."""
    for prediction in predictions:
        if not set(prediction.labels_above(threshold)) <= set(_known(prediction, labels)):
            return False, risk_score(max(prediction.scores.values()), threshold)
    return True, -1.0


def _rounded_score(prediction: Prediction, labels: Collection[str] | None) -> float:
    """The best label's score if that label means a risk, else what it leaves; to two digits."""
    score = prediction.scores[prediction.label]
    return round(score if prediction.label in _known(prediction, labels) else 1 - score, 2)


def _known(prediction: Prediction, labels: Collection[str] | None) -> Collection[str]:
    """Those of the labels that the model has; raises UnexpectedAnswerError if it has none: it is another kind of model.

    Raises NoPositiveLabelError for a model that does not say which label it is.
    """
    if labels is None:
        return (needed(prediction.positive_label, prediction.scores),)
    known = [label for label in labels if label in prediction.scores]
    if not known:
        raise UnexpectedAnswerError(
            f"the model has the labels {', '.join(prediction.scores)}, and the scanner goes by {', '.join(labels)}; "
            "name the model that is made for it"
        )
    return known


RULES = {
    "NoRefusal": Rule(first_above, max_length=128),
    "PromptInjection": Rule(
        first_above, ["INJECTION"], match_types=("full", "sentence", "chunks", "truncate_head_tail")
    ),
    "Toxicity": Rule(
        any_label_above,
        ["toxicity", "severe_toxicity", "obscene", "threat", "insult", "identity_attack", "sexual_explicit"],
        function="sigmoid",
    ),
    "Gibberish": Rule(highest_above, ["word salad", "noise", "mild gibberish"]),
    "Language": Rule(others_above),
    "Bias": Rule(first_above, ["BIASED"]),
}
"""By the name of the scanner."""
