"""Unlabelled texts made of labelled ones."""

import pytest

from training.transfer import RARE, Transfer

TEXTS = [
    "I'm sorry, but I can't help with that. It is dangerous to do so. Please ask a professional.",
    "Boil the water first. Then add the noodles. Stir for three minutes. Serve with butter.",
    "The treaty of Utrecht ended the war. It was signed in 1713. Spain lost Gibraltar.",
    "As an assistant, I do not hold opinions. However, many people enjoy gardening. They plant tulips.",
]


def test_the_same_seed_gives_the_same_texts_and_another_one_others() -> None:
    once, again, other = (Transfer(TEXTS, seed).texts(50) for seed in (1, 1, 2))
    assert once == again
    assert once != other
    assert len(set(once)) == 50


def test_texts_are_cut_joined_and_change_their_topics() -> None:
    made = Transfer(TEXTS, 3).texts(150)
    assert any(text.startswith("I'm sorry") and "noodles" in text for text in made), "two texts are joined"
    assert any("I can't help" not in text and "Please ask" in text for text in made), (
        "a refusal loses its refusing sentence"
    )
    assert any(text.startswith("Boil ") and "water" not in text for text in made), "a rare word is exchanged"


def test_words_that_many_texts_hold_stay() -> None:
    common = [f"Certainly the number is {n}. Certainly that is all." for n in range(RARE + 1)]
    for text in Transfer(common, 1).texts(20):
        assert "ertainly" in text


def test_more_texts_than_can_be_made_are_refused() -> None:
    with pytest.raises(ValueError, match="of 5000 distinct"):
        Transfer(["One sentence of this text. And one more of it."], 1).texts(5000)


def test_nothing_is_made_of_nothing() -> None:
    assert Transfer([], 1).texts(0) == []
    with pytest.raises(ValueError, match="0 of 3 distinct"):
        Transfer(["", " "], 1).texts(3)
