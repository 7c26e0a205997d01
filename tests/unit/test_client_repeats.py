"""What a stream remembers of its texts: for how long, how many, and not its errors."""

import pytest

from rejection_client import InvalidInputError, Prediction, ServerError, _repeats
from rejection_client._repeats import Repeats

FOUND = Prediction("A", {"A": 1.0}, 3, False)


def test_equal_texts_wait_for_one_answer() -> None:
    repeats = Repeats()
    first, is_new = repeats.answer_of("a", 0)
    assert (is_new, first.found) == (True, ())
    assert repeats.answer_of("b", 1)[1]
    assert repeats.answer_of("a", 2) == (first, False)
    first.found = (FOUND,)
    assert repeats.answer_of("a", 3) == (first, False)
    assert first.results(3, "a")[0].prediction is FOUND


def test_an_error_is_for_those_who_wait_and_names_their_row() -> None:
    repeats = Repeats()
    answer, _ = repeats.answer_of("\ud83e", 7)
    assert repeats.answer_of("\ud83e", 9) == (answer, False)
    error = InvalidInputError("text row 7 cannot be sent", 7)
    answer.found = (FOUND, error)
    assert [result.error for result in answer.results(7, "")] == [None, error]
    other = answer.results(9, "")[1].error
    assert isinstance(other, InvalidInputError)
    assert (str(other), other.row, other.__cause__) == ("text row 9 cannot be sent", 9, error)
    assert repeats.answer_of("\ud83e", 10)[1], "asked for anew"
    answer.found = (ServerError("out of order"),)
    assert answer.results(9, "")[0].error is answer.found[0]


def test_memory_and_its_age_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(_repeats, "monotonic", lambda: now_s)
    monkeypatch.setattr(_repeats, "MOST", 3)
    repeats = Repeats()
    assert [repeats.answer_of(text, 0)[1] for text in "abcabcda"] == [True] * 3 + [False] * 3 + [True] * 2
    now_s += _repeats.FRESH_S
    assert repeats.answer_of("d", 0)[1]


def test_what_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="text row 4 is of type bytes"):
        Repeats().answer_of(b"a", 4)
