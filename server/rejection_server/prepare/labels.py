"""A classifier's labels, and how its logits become probabilities."""

from collections.abc import Mapping

from rejection_server.graph.rows import Activation
from rejection_server.prepare.errors import UnsupportedError

MULTI_LABEL = "multi_label_classification"


def labels_of(id2label: Mapping[int | str, str]) -> tuple[str, ...]:
    """Label names in the order of the logits; UnsupportedError for missing ids or names of several lines."""
    by_id = {int(index): str(label) for index, label in id2label.items()}
    if sorted(by_id) != list(range(len(by_id))) or not by_id:
        raise UnsupportedError(
            f"id2label must name the labels 0 to {max(len(by_id) - 1, 0)}, this one has {sorted(by_id)}"
        )
    labels = tuple(by_id[index] for index in range(len(by_id)))
    for label in labels:
        if not label.strip() or label.splitlines() != [label]:
            raise UnsupportedError(f"a label must be one line of text, this model has {label!r}: mend id2label")
    return labels


def activation_of(label_count: int, problem_type: str | None) -> Activation:
    """Sigmoid where labels do not exclude each other or there is only one; softmax otherwise."""
    return "sigmoid" if label_count == 1 or problem_type == MULTI_LABEL else "softmax"
