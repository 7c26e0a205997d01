"""What the server says about one text."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prediction:
    """The classifier's answer for one text."""

    label: str
    """The most probable label, by the name the server gives it."""

    score: float
    """Probability, 0 to 1, of the positive label, which is the server's last one: that the text is a rejection."""

    probabilities: Mapping[str, float]
    """Probability of each label, in the server's order; they add up to 1."""

    token_count: int
    """Tokens of the text before truncation, the model's special tokens included."""
