"""Are the served answers those of the original? Pure comparison: tokens and labels, then scores by length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rejection_server.graph.rows import Activation
    from rejection_server.prepare.answers import Answers

Floats = NDArray[np.float64]

CLASSES = ((1, 16), (17, 64), (65, 256), (257, None))
"""Tokens, special ones included: from, to."""
BORDERLINE = 0.01
"""How near to 0.5 a probability lies whose label may change where only the others' is looked at."""

EDGE_CASES = "edge cases"
EDGE_AGREEMENT, EDGE_MEAN = 0.95, 5
"""In int8, edge cases may fall below the threshold of agreement down to this, and lie so many times as far away."""
LOGITS = 1e-3
"""Largest difference of float32 logits, as a share of the largest or of 1: scores near 0 or 1 hide what differs."""


@dataclass(frozen=True)
class Thresholds:
    """What the gate lets through."""

    agreement: float
    """Smallest share of texts with the same label, 0 to 1."""
    largest: float
    """Largest difference of a probability."""
    mean: float
    """Largest mean difference of the probabilities."""
    ignore_borderline: bool = False
    """Leave texts out of the agreement whose decision the original itself finds near 0.5."""


THRESHOLDS = {
    "fp32": Thresholds(agreement=1.0, largest=1e-4, mean=1e-4, ignore_borderline=True),
    "fp16": Thresholds(agreement=1.0, largest=1e-2, mean=1e-2, ignore_borderline=True),
    "int8": Thresholds(agreement=0.995, largest=1.0, mean=0.01),
}


@dataclass(frozen=True)
class Figures:
    """Differences between two models' answers to some texts."""

    tokens: str
    """Length class, like 17-64, or all of these, or edge cases."""
    texts: int
    agreement: float
    """Share of texts with the same label."""
    agreement_clear: float
    """The same without borderline texts."""
    largest: float
    mean: float


def mistakes(expected: Answers, served: Answers, texts: Sequence[str], counted: int) -> list[str]:
    """What may differ in no precision: the labels' names and order, token ids, counts, and that answers are numbers.

    A text of more than `counted` tokens may be said to have fewer, but not fewer than that.
    """
    found = []
    if served.labels != expected.labels:
        found.append(f"the labels are {', '.join(served.labels)}, not {', '.join(expected.labels)}")
    unlike = [row for row, pair in enumerate(zip(expected.ids, served.ids, strict=True)) if pair[0] != pair[1]]
    if unlike:
        row = unlike[0]
        found.append(
            f"{len(unlike)} of {len(texts)} texts have other tokens, such as {texts[row][:40]!r}: "
            f"{_shown(served.ids[row])} instead of {_shown(expected.ids[row])}"
        )
    counts = list(zip(expected.token_counts, served.token_counts, strict=True))
    unlike = [row for row, (mine, theirs) in enumerate(counts) if not min(mine, counted) <= theirs <= mine]
    if unlike:
        row = unlike[0]
        found.append(
            f"{len(unlike)} of {len(texts)} texts have another number of tokens, such as {texts[row][:40]!r}: "
            f"{counts[row][1]} instead of {counts[row][0]}"
        )
    if not np.isfinite(served.scores).all():
        found.append("an answer is not a number")
    return found


def _shown(ids: Sequence[int]) -> str:
    """The ids, of many the first and the last ones."""
    few = [str(token) for token in ids]
    return " ".join(few if len(few) <= 12 else [*few[:6], "...", *few[-5:]]) or "none"


def logit_failures(expected: Answers, served: Answers, tolerance: float = LOGITS) -> list[str]:
    """What is beyond `tolerance` in the logits, over all texts."""
    scale = max(1.0, float(np.abs(expected.logits).max()))
    largest = float(np.abs(expected.logits - served.logits).max())
    if largest <= tolerance * scale:
        return []
    return [f"a logit differs by {largest:.2g}, at most {tolerance * scale:.2g} is allowed"]


def compare_all(
    reference: Floats, served: Floats, token_counts: Sequence[int], edge_cases: int, activation: Activation
) -> list[Figures]:
    """Figures for every length class that has texts, for the edge cases, which are the last ones, then for all others.

    Scores are as `compare` takes them. Raises ValueError when one of them is not finite.
    """
    usual = len(token_counts) - edge_cases
    figures = compare(reference[:usual], served[:usual], token_counts[:usual], activation)
    if edge_cases:
        edge = compare(reference[usual:], served[usual:], [1] * edge_cases, activation)[-1]
        figures.insert(-1, replace(edge, tokens=EDGE_CASES))
    return figures


def probabilities_of(logits: Floats, activation: Activation) -> Floats:
    """What is answered as `probabilities` [texts, labels] of logits."""
    if activation == "none":
        return logits
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-logits)))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def compare(reference: Floats, served: Floats, token_counts: Sequence[int], activation: Activation) -> list[Figures]:
    """Figures for every length class that has texts, then for all.

    `reference` and `served` are probabilities [texts, labels], or raw scores, whose differences are a share of the
    largest score or of 1. Raises ValueError when one of them is not finite.
    """
    if not np.isfinite(served).all() or not np.isfinite(reference).all():
        raise ValueError("an answer is not a number")
    if activation == "none":
        scale = max(1.0, float(np.abs(reference).max()))
        reference, served = reference / scale, served / scale
    same, borderline = _decisions(reference, served, activation)
    difference = np.abs(reference - served)
    counts = np.asarray(token_counts)
    result = []
    for first, last in (*CLASSES, (0, None)):
        chosen = (counts >= first) & (counts <= (np.inf if last is None else last))
        if not chosen.any():
            continue
        clear = chosen & ~borderline
        result.append(
            Figures(
                tokens="all" if first == 0 else f"{first}-{last}" if last else f"{first} and more",
                texts=int(chosen.sum()),
                agreement=float(same[chosen].mean()),
                agreement_clear=float(same[clear].mean()) if clear.any() else 1.0,
                largest=float(difference[chosen].max()),
                mean=float(difference[chosen].mean()),
            )
        )
    return result


def _decisions(
    reference: Floats, served: Floats, activation: Activation
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each text: is the label the same, and does the original hesitate."""
    if activation == "sigmoid":
        same = ((reference > 0.5) == (served > 0.5)).all(axis=1)
        return same, (np.abs(reference - 0.5) <= BORDERLINE).any(axis=1)
    if reference.shape[1] == 1:  # a single raw score decides nothing
        return np.ones(len(reference), np.bool_), np.zeros(len(reference), np.bool_)
    best = np.sort(reference, axis=1)
    # Of two labels, 0.5 +- x is a lead of 2 x.
    hesitates = best[:, -1] - best[:, -2] <= 2 * BORDERLINE
    return reference.argmax(axis=1) == served.argmax(axis=1), hesitates


def failures(figures: Sequence[Figures], thresholds: Thresholds) -> list[str]:
    """What is beyond the thresholds, over all texts and over the edge cases; empty when nothing is."""
    missed = _failures(figures[-1], thresholds)
    for edge in (figure for figure in figures if figure.tokens == EDGE_CASES):
        allowed = replace(
            thresholds,
            agreement=min(EDGE_AGREEMENT, thresholds.agreement) if thresholds.largest >= 1 else thresholds.agreement,
            mean=EDGE_MEAN * thresholds.mean if thresholds.largest >= 1 else thresholds.mean,
            ignore_borderline=True,
        )
        missed += [f"{EDGE_CASES}: {sentence}" for sentence in _failures(edge, allowed)]
    return missed


def _failures(total: Figures, thresholds: Thresholds) -> list[str]:
    agreement = total.agreement_clear if thresholds.ignore_borderline else total.agreement
    missed = []
    if agreement < thresholds.agreement:
        clear = ", those near 0.5 left out" if thresholds.ignore_borderline else ""
        missed.append(
            f"{agreement:.2%} of the texts get the same label{clear}, at least {thresholds.agreement:.2%} must"
        )
    if total.largest > thresholds.largest:
        missed.append(f"a probability differs by {total.largest:.2g}, at most {thresholds.largest:g} is allowed")
    if total.mean > thresholds.mean:
        missed.append(f"probabilities differ by {total.mean:.2g} on average, at most {thresholds.mean:g} is allowed")
    return missed


def table(figures: Sequence[Figures]) -> str:
    """The figures as a Markdown table."""
    rows = [("tokens", "texts", "same label", "largest difference", "mean difference")]
    rows += [(f.tokens, str(f.texts), f"{f.agreement:.2%}", f"{f.largest:.2e}", f"{f.mean:.2e}") for f in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(cells: Sequence[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([cells[0].ljust(widths[0]), *numbers]) + " |"

    ruler = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    return "\n".join([line(rows[0]), ruler, *(line(row) for row in rows[1:])])
