"""What the server says about one text, and what the client makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from rejection_client.errors import RejectionError


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

    truncated: bool | None
    """Whether the text was longer than what the model read of it; None where the server does not say how much that is,
    and no `max_length` was asked for."""

    def is_rejection(self, threshold: float = 0.5) -> bool:
        """Whether `score` is above `threshold`, a probability."""
        return self.score > threshold


@dataclass(frozen=True, slots=True)
class Result:
    """One text of a stream: its prediction, or why there is none."""

    index: int
    """Place of the text in the stream, from 0."""

    text: str
    """The text itself."""

    prediction: Prediction | None
    """The answer; None if there is an error."""

    error: RejectionError | None = None
    """Why there is no answer; None if there is one."""

    def unwrap(self) -> Prediction:
        """Give the prediction, or raise the error."""
        if self.prediction is None:
            assert self.error is not None
            raise self.error
        return self.prediction


@dataclass(frozen=True, slots=True)
class Unit:
    """A window or a sentence of a document."""

    start: int
    """Index of its first character in the document."""

    end: int
    """Index after its last character: `document[start:end]` is what was classified."""

    prediction: Prediction
    """The answer for it alone; never truncated."""


@dataclass(frozen=True, slots=True)
class DocumentPrediction:
    """The answer for a long text, from the answers for its parts."""

    highest: Unit
    """The part most likely to be a rejection; the first of several."""

    unit_count: int
    """Parts that were classified."""

    units: tuple[Unit, ...]
    """Every part in the order of the document, if asked for; else empty."""

    @property
    def score(self) -> float:
        """Highest probability, 0 to 1, of any part to be a rejection."""
        return self.highest.prediction.score

    def is_rejection(self, threshold: float = 0.5) -> bool:
        """Whether any part's score is above `threshold`, a probability."""
        return self.score > threshold


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the server tells of its model."""

    name: str
    """The model's name on the server."""

    versions: tuple[str, ...]
    """Versions that the server has loaded."""

    labels: tuple[str, ...]
    """Label names by index; the last one is the positive one."""

    max_batch_size: int
    """Texts in one request at most."""

    max_length: int | None
    """Tokens of a text that the model reads, special tokens included; None where the server does not say."""

    server: str
    """Name and version of the server, such as `triton 2.51.0`."""
