"""What the teachers say of texts that nobody labelled: most of what the small model is trained on.

Two teachers judge each text: the larger encoder (`training.teacher`) and a linear model over n-grams
(`training.ngrams`). The second one learns in seconds, so no text is judged by one that saw the rows it is made of: the
rows are dealt into folds, and a fold's texts are judged by the model of the other folds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from training.data import NOISY, SYNTHETIC, TRANSFER, Row, Split, beginning_digest
from training.metrics import Floats, best_temperature
from training.transfer import Transfer

FOLDS = 5
SHARES = (0.6, 0.25, 0.15)
"""Of texts made of hand-labelled rows, of noisy rows, and of hand-labelled and synthetic rows together."""
CERTAIN = 0.99
"""No opinion is more certain than this."""

Judge = Callable[[Sequence[str]], Floats]
"""Log odds [texts] that each of some texts is a refusal."""
Learn = Callable[[Sequence[Row], Sequence[float]], Judge]
"""Learns from rows and their weights."""


def row_weights(rows: Sequence[Row]) -> list[float]:
    """How much a row counts with the n-gram model and in calibrations."""
    return [{NOISY: 0.3, SYNTHETIC: 0.5}.get(row.source, 1.0) for row in rows]


@dataclass(frozen=True, slots=True)
class Teachers:
    """Who is asked."""

    encoder: Judge
    """The larger encoder, which has learnt from all training rows."""
    learn: Learn
    """Makes the n-gram model of some rows."""


def opinions(split: Split, teachers: Teachers, count: int, seed: int, report: Callable[[str], None]) -> list[Row]:
    """About ``count`` rows with an opinion each: texts of `training.transfer`.

    Args:
        split: labelled and synthetic training rows; on the labelled ones of the others each teacher's log odds are
            calibrated.
        teachers: who is asked.
        count: how many texts to make.
        seed: the same one gives the same texts.
        report: told what is going on.
    """
    held_out = [row for row in split.validation if row.source != SYNTHETIC]
    texts: list[str] = []
    wording: list[float] = []
    seen: list[Floats] = []
    for fold in range(FOLDS):
        mine = [row for row in split.train if _fold(row) == fold]
        rest = [row for row in split.train if _fold(row) != fold]
        ngrams = teachers.learn(rest, row_weights(rest))
        made = made_of(mine, count // FOLDS, seed + fold)
        texts += made
        wording += list(ngrams(made))
        seen.append(ngrams([row.text for row in held_out]))
        report(f"n-grams, fold {fold + 1} of {FOLDS}: {len(made)} texts judged")
    by_ngrams = np.asarray(wording) / _temperature(held_out, np.mean(seen, axis=0))
    by_encoder = teachers.encoder(texts) / _temperature(held_out, teachers.encoder([row.text for row in held_out]))
    agreed = float(((by_ngrams > 0) == (by_encoder > 0)).mean())
    report(f"{len(texts)} texts; the teachers agree on {agreed:.1%}")
    chance = 1 / (1 + np.exp(-(by_ngrams + by_encoder) / 2))
    return [
        Row(text, int(p > 0.5), TRANSFER, float(np.clip(p, 1 - CERTAIN, CERTAIN)))
        for text, p in zip(texts, chance, strict=True)
    ]


def made_of(rows: Sequence[Row], count: int, seed: int) -> list[str]:
    """About ``count`` texts of `training.transfer`, in :data:`SHARES`."""
    by_hand = [row.text for row in rows if row.source not in (NOISY, SYNTHETIC)]
    noisy = [row.text for row in rows if row.source == NOISY]
    mixed = by_hand + [row.text for row in rows if row.source == SYNTHETIC]
    made: list[str] = []
    for number, (source, share) in enumerate(zip((by_hand, noisy, mixed), SHARES, strict=True)):
        made += Transfer(source, seed * len(SHARES) + number).texts(round(count * share))
    return made


def _fold(row: Row) -> int:
    return int.from_bytes(beginning_digest(row.text, b"fold")[:4]) % FOLDS


def _temperature(rows: Sequence[Row], log_odds: Floats) -> float:
    logits = np.stack([np.zeros(len(log_odds)), log_odds], axis=1)
    return best_temperature([row.label for row in rows], logits, row_weights(rows))
