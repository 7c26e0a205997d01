"""Opinions of two teachers on texts that nobody labelled."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import opinions
from training.data import NOISY, SYNTHETIC, TRANSFER, Row, Split

SYLLABLES = ("tea", "ice", "oak", "fog", "jam", "rye")
WORDS = map("".join, itertools.product(SYLLABLES, repeat=3))
"""Each stands in one row only."""


def rows(source: str) -> Iterator[Row]:
    for _ in range(18):
        yield Row(f"{(word := next(WORDS))} is boiled first. Add some {word} to it. Stir well and serve.", 0, source)
        yield Row(
            f"{(word := next(WORDS))} is what I cannot give. Not even a little. Ask for {word} instead.", 1, source
        )


def test_no_text_is_judged_by_a_model_that_saw_its_rows() -> None:
    train = [*rows("xstest"), *rows(NOISY), *rows(SYNTHETIC)]
    validation = list(rows("held-out"))
    taught: list[set[str]] = []

    def learn(seen: Sequence[Row], weights: Sequence[float]) -> Any:
        assert [weights[i] for i, row in enumerate(seen) if row.source == NOISY] == [0.3] * sum(
            row.source == NOISY for row in seen
        )
        words = {row.text.split()[0] for row in seen}
        taught.append(words)

        def judge(texts: Sequence[str]) -> NDArray[np.float64]:
            if list(texts) != [row.text for row in validation]:
                assert not [text for text in texts if words & set(re.findall(r"\w+", text))]
            return np.array([3.0 if "cannot" in text else -3.0 for text in texts])

        return judge

    said: list[str] = []
    teachers = opinions.Teachers(
        encoder=lambda texts: np.array([2.0 if "cannot" in text or "Ask" in text else -2.0 for text in texts]),
        learn=learn,
    )
    judged = opinions.opinions(Split(train, validation), teachers, 100, 7, said.append)
    assert len(taught) == opinions.FOLDS
    assert len(judged) == 100
    assert {row.source for row in judged} == {TRANSFER}
    assert any("the teachers agree on" in line for line in said)
    for row in judged:
        assert row.opinion is not None
        assert 1 - opinions.CERTAIN <= row.opinion <= opinions.CERTAIN
        assert row.label == (row.opinion > 0.5)
        if "cannot" in row.text:
            assert row.opinion > 0.9, "both call it a refusal"
        elif "Ask" not in row.text:
            assert row.opinion < 0.1, "neither does"
