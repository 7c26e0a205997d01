"""Everyday sentences that train the bundled model, and those that are held back."""

import json
import re
from collections import Counter

import pytest

from support.repository import EVERYDAY
from training.data import normalised
from training.everyday import everyday_rows

HELD_OUT = [
    row for row in map(json.loads, EVERYDAY.read_text(encoding="utf-8").splitlines()) if row["use"] == "held-out"
]


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w']+", text.lower().replace("’", "'")))


def test_rows_repeat_and_differ() -> None:
    rows = everyday_rows(7, 800)
    assert rows == everyday_rows(7, 800)
    assert rows != everyday_rows(8, 800)
    assert len({text for text, _ in rows}) == 800
    assert Counter(label for _, label in rows) == {1: 200, 0: 600}
    assert not [text for text, _ in rows if re.search(r"\{(day|time|friend|place|food|object|n|city)\}", text)]


def test_more_rows_than_the_phrases_yield_are_refused() -> None:
    with pytest.raises(ValueError, match="ask for fewer"):
        everyday_rows(7, 10**6)


def test_nothing_that_is_held_back_is_trained_on() -> None:
    """Not the sentence, and not one that shares more than 6 in 10 of its words."""
    assert Counter(row["label"] for row in HELD_OUT) == {0: 200, 1: 40}
    trained = [text for text, _ in everyday_rows(7, 4000)]
    assert not {normalised(row["text"]) for row in HELD_OUT} & {normalised(text) for text in trained}
    bags = [words(text) for text in trained]
    for row in HELD_OUT:
        mine = words(row["text"])
        nearest = max(range(len(bags)), key=lambda i: len(mine & bags[i]) / len(mine | bags[i]))
        assert len(mine & bags[nearest]) / len(mine | bags[nearest]) <= 0.6, (row["text"], trained[nearest])
