"""What the server says about one text, and what the client makes of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rejection_client.errors import NoPositiveLabelError, RejectionError


@dataclass(frozen=True, slots=True)
class Prediction:
    """The classifier's answer for one text."""

    label: str
    """The best label, by the name the server gives it; the first of several."""

    scores: Mapping[str, float]
    """Score of each label, in the server's order. What they are, `ModelInfo.function_to_apply` says: probabilities that
    add up to 1 (softmax), a probability for each label by itself (sigmoid), or raw scores (none)."""

    token_count: int
    """Tokens of the text before truncation, the model's special tokens included."""

    truncated: bool | None
    """Whether the text was longer than what the model read of it; None where the server does not say how much that is,
    and no `max_length` was asked for."""

    positive_label: str | None = None
    """The label that means a rejection, by name: `ClientConfig.positive_label`, else the model's own; None where there
    is neither."""

    @property
    def score(self) -> float:
        """Score of the positive label: that the text is a rejection.

        Raises NoPositiveLabelError for a model without such a label.
        """
        return self.scores[needed(self.positive_label, self.scores)]

    def is_rejection(self, threshold: float = 0.5) -> bool:
        """Whether `score` is above `threshold`. Raises NoPositiveLabelError for a model without a positive label."""
        return self.score > threshold

    def labels_above(self, threshold: float = 0.5) -> tuple[str, ...]:
        """Every label whose score is above `threshold`, best first: what a multi-label model says of the text."""
        best_first = sorted(self.scores.items(), key=lambda item: -item[1])
        return tuple(label for label, score in best_first if score > threshold)


def needed(positive_label: str | None, labels: Iterable[str]) -> str:
    """The positive label itself; raises NoPositiveLabelError if there is none."""
    if positive_label is None:
        raise NoPositiveLabelError(
            f"no label of this model is known to mean a rejection; name one of {', '.join(labels)} as positive_label "
            "(--positive-label), or prepare the model with one"
        )
    return positive_label


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
        """Highest score of the positive label in any part."""
        return self.highest.prediction.score

    def is_rejection(self, threshold: float = 0.5) -> bool:
        """Whether any part's score is above `threshold`."""
        return self.score > threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """What the server tells of its model."""

    name: str
    """The model's name on the server."""

    versions: tuple[str, ...]
    """Versions that the server has loaded."""

    labels: tuple[str, ...]
    """Label names by index."""

    positive_label: str | None = None
    """The label that means a rejection: `ClientConfig.positive_label`, else what the server names; None without."""

    function_to_apply: str | None = None
    """What makes the scores of the model's outputs: "softmax", "sigmoid" or "none" (raw scores); None where the server
    does not say."""

    problem_type: str | None = None
    """"single_label_classification" (one label holds), "multi_label_classification" (any number does) or "regression";
    None where the server does not say."""

    model_id: str | None = None
    """Which classifier it is: its id on the hub, or the name of its folder."""

    model_revision: str | None = None
    """The hub's commit; None for a folder."""

    model_sha256: str | None = None
    """SHA-256 of the ONNX file that is served, in hexadecimal."""

    precision: str | None = None
    """"fp32", "fp16" or "int8"."""

    model_version: str | None = None
    """The classifier's version on the server."""

    max_batch_size: int
    """Texts in one request at most."""

    max_length: int | None
    """Tokens of a text that the model reads, special tokens included; None where the server does not say."""

    server: str
    """Name and version of the server, such as `triton 2.51.0`."""

    @property
    def is_multi_label(self) -> bool:
        """Whether any number of labels may hold for one text."""
        return self.problem_type == "multi_label_classification"

    @property
    def has_probabilities(self) -> bool:
        """Whether scores are probabilities, 0 to 1, as far as the server says."""
        return self.function_to_apply in ("softmax", "sigmoid")
