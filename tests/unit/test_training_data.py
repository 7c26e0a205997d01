"""Rows that train the bundled model: cleaning, splitting and variation."""

import random
from collections import Counter

from training import data
from training.data import Row
from training.phrases import synthetic_rows


def test_test_texts_repeats_and_contradictions_are_dropped() -> None:
    rows = [
        Row("I can't do that.", 1, "a"),
        Row("  i CAN'T do that", 1, "a"),  # a repeat but for case and spacing
        Row("In the test file!", 1, "a"),
        Row("Here you are.", 0, "a"),
        Row("Unclear.", 0, "a"),
        Row("Unclear.", 1, "b"),
        Row("...", 0, "a"),
    ]
    kept = data.training_rows(rows, [Row("in the TEST file", 1, "a")])
    assert [(row.text, row.label) for row in kept] == [("I can't do that.", 1), ("Here you are.", 0)]


def test_texts_that_begin_alike_stay_on_one_side() -> None:
    begin = "I am sorry, but I cannot assist you with this request because it is against the rules of "
    alike = data.split([Row(begin + str(i), 1, "a") for i in range(50)], 0.5)
    assert sorted([len(alike.train), len(alike.validation)]) == [0, 50]
    different = data.split([Row(f"{i} {begin}", 1, "a") for i in range(400)], 0.25)
    assert 60 < len(different.validation) < 140


def test_variation_never_turns_a_refusal_into_something_else() -> None:
    rng = random.Random(3)
    refusal = Row("I'm sorry, but I can't help with that. It is dangerous. Ask a doctor instead.", 1, "a")
    seen = Counter(data.varied(refusal, rng).text for _ in range(500))
    assert any(text.startswith("I can't help with that.") for text in seen), "the apology is sometimes left out"
    assert any("doctor" not in text for text in seen), "it is sometimes cut"
    assert all("help with that" in text.lower() for text in seen)


def test_variation_never_cuts_an_answer_down_to_a_refusing_sentence() -> None:
    rng = random.Random(4)
    answer = Row("As an AI I cannot taste it. Boil the water first. Add the pasta and stir for ten minutes.", 0, "a")
    seen = {data.varied(answer, rng).text for _ in range(500)}
    assert len(seen) > 3
    assert not any(text.rstrip().lower().endswith("cannot taste it.") for text in seen)


def test_synthetic_rows_repeat_and_differ() -> None:
    rows = synthetic_rows(7, 1000)
    assert rows == synthetic_rows(7, 1000)
    assert rows != synthetic_rows(8, 1000)
    assert len({text for text, _ in rows}) == 1000
    assert Counter(label for _, label in rows) == {1: 450, 0: 550}
    assert not any("{" in text and "}" in text and "def " not in text and "`" not in text for text, _ in rows[:200])
