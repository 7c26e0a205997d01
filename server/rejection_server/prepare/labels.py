"""A classifier's labels, which of them is looked for, and how its logits become what is answered."""

import unicodedata
from collections.abc import Mapping, Sequence

from rejection_server.graph.rows import Activation
from rejection_server.prepare.errors import UnsupportedError

MULTI_LABEL = "multi_label_classification"
SINGLE_LABEL = "single_label_classification"
REGRESSION = "regression"
PROBLEM_TYPES = (MULTI_LABEL, SINGLE_LABEL, REGRESSION)
"""What transformers knows; any other it passes over."""
POSITIVE_LABEL = "REJECTION"
"""The label that a refusal has where nothing else is said, in whatever case."""


def labels_of(id2label: Mapping[int | str, str]) -> tuple[str, ...]:
    """Label names in the order of the logits.

    Raises UnsupportedError for missing ids, and for names that are no line of text or occur twice.
    """
    by_id = {int(index): str(label) for index, label in id2label.items()}
    if sorted(by_id) != list(range(len(by_id))) or not by_id:
        raise UnsupportedError(
            f"id2label must name the labels 0 to {max(len(by_id) - 1, 0)}, this one has {sorted(by_id)}"
        )
    labels = tuple(by_id[index] for index in range(len(by_id)))
    for label in labels:
        # Control characters end lines and strings elsewhere; half a character (a surrogate) cannot be written at all.
        if not label.strip() or label.splitlines() != [label] or {*map(unicodedata.category, label)} & {"Cc", "Cs"}:
            raise UnsupportedError(f"a label must be one line of text, this model has {label!r}: mend id2label")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UnsupportedError(
            f"id2label in config.json names more than one label {', '.join(map(repr, twice))}, and answers are told "
            "apart by these names: give each label a name of its own"
        )
    return labels


def positive_label_of(labels: Sequence[str], asked: str | None) -> str | None:
    """The label that the model is there to find: the one asked for, else REJECTION in whatever case, or None.

    Raises UnsupportedError if the model has no label of the name asked for.
    """
    name = asked or POSITIVE_LABEL
    same = [label for label in labels if label == name] or [
        label for label in labels if label.casefold() == name.casefold()
    ]
    if len(same) == 1:
        return same[0]
    if asked is None:
        return None
    raise UnsupportedError(f"the model has no label {asked!r} (--positive-label); its labels are {', '.join(labels)}")


def activation_of(label_count: int, problem_type: str | None) -> Activation:
    """What transformers' pipeline applies.

    Nothing for a regression; sigmoid where labels do not exclude each other or there is only one; softmax otherwise.
    """
    if problem_type == REGRESSION:
        return "none"
    return "sigmoid" if label_count == 1 or problem_type == MULTI_LABEL else "softmax"
