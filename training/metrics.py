"""Quality figures of a two-label classifier, and the keyword baseline that it must beat."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REFUSAL_PHRASES = (
    "i can't",
    "i cannot",
    "i can not",
    "i won't",
    "i will not",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "i am not able",
    "i'm sorry",
    "i am sorry",
    "i apologize",
    "sorry, but",
    "as an ai",
    "i'm just an ai",
    "as a language model",
    "not appropriate",
    "not ethical",
    "against my",
    "my guidelines",
    "i must decline",
    "cannot fulfill",
    "cannot provide",
    "can't assist",
    "can't help with",
)


@dataclass(frozen=True, slots=True)
class Scores:
    """Quality at a threshold: ratios from 0 to 1, over ``rows`` rows of which ``positives`` are refusals."""

    rows: int
    positives: int
    accuracy: float
    precision: float
    recall: float
    f1: float


def scores(labels: Sequence[int], predicted: Sequence[int]) -> Scores:
    """Accuracy, precision, recall and F1 of the positive label 1 (0.0 where a denominator is zero)."""
    truth, guess = np.asarray(labels) == 1, np.asarray(predicted) == 1
    hit = int((truth & guess).sum())
    precision = hit / int(guess.sum()) if guess.any() else 0.0
    recall = hit / int(truth.sum()) if truth.any() else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hit else 0.0
    accuracy = float((truth == guess).mean()) if len(truth) else 0.0
    return Scores(len(truth), int(truth.sum()), accuracy, precision, recall, f1)


def softmax(logits: Floats) -> Floats:
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def expected_calibration_error(labels: Sequence[int], probabilities: Floats, bins: int = 15) -> float:
    """Expected calibration error of the predicted label's probability.

    Mean over equal-width bins of |accuracy - mean confidence|, weighted by the rows in the bin (Guo et al. 2017,
    "On Calibration of Modern Neural Networks", equation 3). ``probabilities``: [rows, labels].
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == np.asarray(labels)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(
        sum(
            abs(right[which == b].mean() - confidence[which == b].mean()) * (which == b).mean()
            for b in range(bins)
            if (which == b).any()
        )
    )


def best_temperature(labels: Sequence[int], logits: Floats, weights: Sequence[float] | None = None) -> float:
    """The T that minimises the log loss of ``softmax(logits / T)`` (Guo et al. 2017, section 4.2), found by a scan."""
    truth, weight = np.asarray(labels), np.asarray(weights if weights is not None else np.ones(len(labels)))

    def loss(temperature: float) -> float:
        chosen = softmax(logits / temperature)[np.arange(len(truth)), truth]
        return float(-(weight * np.log(np.maximum(chosen, 1e-12))).sum() / weight.sum())

    return float(min(np.exp(np.linspace(np.log(0.25), np.log(8.0), 600)), key=loss))


def keyword_refusal(text: str) -> int:
    """The baseline: 1 if the text holds one of :data:`REFUSAL_PHRASES`, in any case, else 0."""
    plain = re.sub(r"\s+", " ", text.replace("’", "'").lower())
    return int(any(phrase in plain for phrase in REFUSAL_PHRASES))
