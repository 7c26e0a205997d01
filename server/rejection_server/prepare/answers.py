"""What a classifier made of some texts: the form in which original and served model are compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rejection_server.prepare.errors import GateError
from rejection_server.prepare.reference import Answer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """Answers, one row a text."""

    labels: tuple[str, ...]
    """Names of the columns."""
    ids: tuple[tuple[int, ...], ...]
    """Token ids that the model was given, special ones included, in its length."""
    token_counts: tuple[int, ...]
    """Tokens before that."""
    logits: Floats
    """[texts, labels], as the model gives them."""
    scores: Floats
    """[texts, labels], what a caller gets as `probabilities`."""

    def of(self, rows: Iterable[int]) -> Answers:
        """The answers of these rows."""
        chosen = list(rows)
        return Answers(
            self.labels,
            tuple(self.ids[row] for row in chosen),
            tuple(self.token_counts[row] for row in chosen),
            self.logits[chosen],
            self.scores[chosen],
        )

    @classmethod
    def expected(cls, answers: Sequence[Answer], labels: tuple[str, ...]) -> Answers:
        """The original's answers, in columns of these labels; raises GateError if it has others."""
        names = set(answers[0].scores)
        if names != set(labels):
            raise GateError(
                f"the original answers with the labels {', '.join(sorted(names))}, but id2label names "
                f"{', '.join(sorted(labels))}: nothing was written"
            )
        return cls(
            labels,
            tuple(answer.ids for answer in answers),
            tuple(answer.token_count for answer in answers),
            np.asarray([answer.logits for answer in answers], np.float64),
            np.asarray([[answer.scores[label] for label in labels] for answer in answers], np.float64),
        )
