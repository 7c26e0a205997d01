"""Cutting long texts: nothing is lost, nothing is too long, words stay whole."""

import itertools
import random

import pytest

from rejection_client import InvalidInputError, Prediction, Unit
from rejection_client._documents import Splitter, sentence_spans, windows

WORDS = ["a", "of", "server", "international", "I", "cannot", "日本語", "donaudampfschifffahrt", "\n\n"]


def text_of(words: int, seed: int = 0) -> str:
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(words))


def count(text: str) -> int:
    """Tokens as a word-piece tokenizer might count them: one for three letters of a word, and two special ones."""
    return 2 + sum(-(-len(word) // 3) for word in text.split())


def split(text: str, unit: str, limit: int, overlap: float = 0.25) -> tuple[list[Unit], int]:
    """Every part that counts, as the client finds them."""
    splitter = Splitter(text, unit, overlap, limit)
    found, rounds = [], 0
    spans = splitter.first_spans()
    while spans:
        rounds += 1
        scored = []
        for start, end in spans:
            tokens = count(text[start:end])
            scored.append(Unit(start, end, Prediction("N", {"N": 1.0}, tokens, tokens > limit)))
        found += [unit for unit in scored if splitter.is_whole(unit)]
        spans = splitter.next_spans([unit for unit in scored if not splitter.is_whole(unit)])
    return sorted(found, key=lambda unit: unit.start), rounds


@pytest.mark.parametrize("words", [0, 1, 50, 3000])
@pytest.mark.parametrize("limit", [12, 64, 512])
@pytest.mark.parametrize("unit", ["windows", "sentences"])
def test_every_character_is_in_a_part_and_no_part_is_too_long(words: int, limit: int, unit: str) -> None:
    text = text_of(words)
    parts, rounds = split(text, unit, limit)
    assert all(part.prediction.token_count <= limit for part in parts)
    covered = {place for part in parts for place in range(part.start, part.end)}
    assert {place for place, character in enumerate(text) if not character.isspace()} <= covered
    assert rounds <= 8


def test_a_text_that_fits_is_one_window() -> None:
    parts, rounds = split("Hello there, all of you.", "windows", 64)
    assert [(part.start, part.end) for part in parts] == [(0, 24)]
    assert rounds == 1


def test_windows_are_well_filled() -> None:
    text = text_of(5000)
    parts, _ = split(text, "windows", 128, overlap=0)
    needed = count(text) / 126
    assert len(parts) <= 1.5 * needed


def test_windows_overlap_and_keep_words_whole() -> None:
    text = text_of(300)
    spans = list(windows(text, (0, len(text)), 100, 0.25))
    for (start, end), (after, _) in itertools.pairwise(spans):
        assert start < after < end
        assert 0 < end - after <= 50
        assert text[end].isspace()
        assert text[after - 1].isspace()
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)


@pytest.mark.parametrize("overlap", [0, 0.5, 0.9])
def test_a_text_without_spaces_is_cut_too(overlap: float) -> None:
    spans = list(windows("x" * 1000, (0, 1000), 10, overlap))
    assert spans[-1][1] == 1000
    assert all(0 < end - start <= 10 for start, end in spans)


def test_sentences_are_those_of_punkt() -> None:
    text = 'Dr. Smith, e.g., paid $3.50. Sorry, but no!  "I can\'t." OK?\n\nThe end'
    assert [text[start:end] for start, end in sentence_spans(text)] == [
        "Dr. Smith, e.g., paid $3.50.",
        "Sorry, but no!",
        '"I can\'t."',
        "OK?",
        "The end",
    ]
    assert sentence_spans(" \n") == [(0, 2)]
    assert sentence_spans("") == [(0, 0)]


def test_an_endless_sentence_is_cut_before_it_is_sent() -> None:
    spans = Splitter("word " * 1_000_000, "sentences", 0.25, 512).first_spans()
    assert max(end - start for start, end in spans) < 1_000_000


@pytest.mark.parametrize(("unit", "overlap"), [("paragraphs", 0.25), ("windows", -0.1), ("windows", 1.0)])
def test_options_that_cannot_be(unit: str, overlap: float) -> None:
    with pytest.raises(ValueError, match="unit" if unit == "paragraphs" else "overlap"):
        Splitter("text", unit, overlap, 512)


def test_a_limit_without_room_ends() -> None:
    with pytest.raises(InvalidInputError, match="max_length"):
        split("some words", "windows", 2)
