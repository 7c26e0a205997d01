"""Unlabelled texts in the manner of the training rows, on which the small model learns to judge as its teacher does.

Single words and sentences of the training rows are cut, joined and exchanged. What such a text is labelled, nobody
knows beforehand: an answer may lose its refusing sentence, a refusal its topic. That is what they are for: they show
the small model what the teacher goes by, where the few labelled rows leave it open.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

_SENTENCES = re.compile(r"(?<=[.!?:])\s+|\n+")
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]{3,}")
_SUFFIXES = ("ing", "ed", "ly", "s")
RARE = 8
"""A word is taken for a topic, not for a turn of phrase, if no more than so many texts hold it."""


class Transfer:
    """Makes texts out of ``texts``; the same texts and seed give the same ones."""

    def __init__(self, texts: Sequence[str], seed: int) -> None:
        self._rng = random.Random(seed)
        self._texts = [sentences for sentences in map(_sentences, texts) if sentences]
        held = Counter(word for text in texts for word in {match[0] for match in _WORD.finditer(text)})
        self._kinds: dict[tuple[bool, str], list[str]] = defaultdict(list)
        for word, count in sorted(held.items()):
            if count <= RARE:
                self._kinds[_kind(word)].append(word)
        self._rare = {word for words in self._kinds.values() for word in words}

    def texts(self, count: int) -> list[str]:
        """``count`` distinct texts. Raises ValueError where the rows do not yield so many."""
        made: dict[str, None] = {}
        for _ in range(50 * count if self._texts else 0):
            if len(made) == count:
                break
            text = self._one()
            if len(text) > 15:
                made[text] = None
        if len(made) < count:
            raise ValueError(f"the rows gave only {len(made)} of {count} distinct texts: ask for fewer")
        return list(made)

    def _one(self) -> str:
        rng = self._rng
        sentences = rng.choice(self._texts)
        draw = rng.random()
        if draw < 0.35:
            sentences = self._window(sentences)
        elif draw < 0.55:
            left_out = rng.randrange(min(6, len(sentences)))
            sentences = [*sentences[:left_out], *sentences[left_out + 1 : 6]] or sentences
        elif draw < 0.8:
            sentences = sentences[: rng.choice((1, 1, 2))] + self._window(rng.choice(self._texts))
        text = " ".join(sentences[:12])
        return self._other_topics(text) if draw >= 0.8 or rng.random() < 0.4 else text

    def _window(self, sentences: Sequence[str]) -> list[str]:
        start = 0 if self._rng.random() < 0.4 else self._rng.randrange(len(sentences))
        return list(sentences[start : start + self._rng.choice((1, 1, 2, 3, 5))])

    def _other_topics(self, text: str) -> str:
        def other(match: re.Match[str]) -> str:
            word = match[0]
            if word not in self._rare or self._rng.random() < 0.4:
                return word
            return self._rng.choice(self._kinds[_kind(word)])

        return _WORD.sub(other, text)


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in _SENTENCES.split(text) if part.strip()]


def _kind(word: str) -> tuple[bool, str]:
    """Words of a kind can stand for each other: capitalised or not, and by their ending."""
    return word[0].isupper(), next((suffix for suffix in _SUFFIXES if word.endswith(suffix)), "")
