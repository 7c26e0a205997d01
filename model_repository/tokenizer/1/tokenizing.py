"""Text to token ids, without Triton: decode, read, truncate, fill up. ``model.py`` beside it adapts Triton to this.

A text longer than its limit is truncated as Hugging Face does with ``truncation=True``: the first tokens stay, or the
last ones where ``tokenizer.json`` cuts on the left, and the special tokens around them. Of a long text only the
beginning is tokenised, up to a place at which it can be cut without changing a token before it (``cuts.py``); so what a
text costs is bounded, whatever its length. One that cuts on the left reads texts whole, and refuses longer ones.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from cuts import find_cuts
from numpy.typing import NDArray
from tokenizers import Tokenizer

MAX_TEXT_BYTES = 1 << 20
"""Longest text, in bytes of UTF-8 (1 MiB); a longer one is refused before it costs anything."""

COUNTED_TOKENS = 2048
"""Tokens are counted exactly up to so many, or up to twice the model's maximum if that is more."""
CHARACTERS_PER_TOKEN = 8
"""What is read at first of a long text: so many characters for each token to count, more than most texts have."""
FURTHER = 4
"""What is read at most, by the same measure."""

FILLER = -1
"""Fills rows up to the longest of their request. In no vocabulary, so that the classifier's graph can drop it."""


class TextError(ValueError):
    """A text or its option cannot be used; the message names the row and what is wrong with it."""


def decode(texts: Sequence[bytes]) -> Iterator[str]:
    """Decode UTF-8, each text when its turn comes: decoded it may take four times as much memory.

    Raises :class:`TextError` naming the first row that is too long or not UTF-8, before any is decoded.
    """
    for row, text in enumerate(texts):
        if len(text) > MAX_TEXT_BYTES:
            raise TextError(
                f"text in row {row} has {len(text)} bytes; at most {MAX_TEXT_BYTES} (1 MiB) are accepted, so split it"
            )
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TextError(
                f"text in row {row} is not valid UTF-8: {error.reason} at byte {error.start}; encode it as UTF-8"
            ) from error
    return (text.decode("utf-8") for text in texts)


def check_lengths(max_lengths: Sequence[int]) -> None:
    """Raise :class:`TextError` naming the first row whose ``max_length`` is below 1."""
    for row, length in enumerate(max_lengths):
        if length < 1:
            raise TextError(f"max_length in row {row} is {length}; it must be 1 or more tokens")


class TextTokenizer:
    """Tokenises texts for one model.

    ``path``: a ``tokenizer.json``; ``model_max_length``: positions of the model, special tokens included;
    ``model_min_length``: the fewest tokens that a longer text may be cut to.

    Raises ``ValueError`` when the tokenizer puts special tokens anywhere but around a text.
    """

    def __init__(self, path: Path, model_max_length: int, model_min_length: int = 1) -> None:
        """Read the tokenizer; of its own truncation and padding settings only the side that is cut applies here."""
        settings = path.read_text(encoding="utf-8")
        self._tokenizer = Tokenizer.from_str(settings)
        self._cuts_left = (self._tokenizer.truncation or {}).get("direction") == "left"
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.model_max_length = model_max_length
        self.model_min_length = model_min_length
        self._before, self._after = self._special_tokens()
        normalizer = self._tokenizer.normalizer
        self._cuts = (
            None
            if self._cuts_left
            else find_cuts(json.loads(settings), normalizer.normalize_str if normalizer is not None else str)
        )
        self._counted = max(COUNTED_TOKENS, 2 * model_max_length)
        self._first = CHARACTERS_PER_TOKEN * self._counted
        self.most_characters = FURTHER * self._first
        """Longest text that is read whole, and the most that is read of any."""

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts before and after a text."""
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        full = self._tokenizer.encode("a").ids
        for start in range(len(full) - len(bare) + 1):
            if bare and full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        raise ValueError("this tokenizer does more than put special tokens around a text; such a one cannot be served")

    def read(self, texts: Iterable[str], max_lengths: Sequence[int]) -> tuple[list[list[int]], list[int]]:
        """Ids of each text cut to its ``max_length``, and its number of tokens.

        The number is exact up to 2048 (or twice the model's maximum) tokens that are found in the first
        ``most_characters`` characters; of a text with more it is at least that many, and never too large.

        Raises :class:`TextError` naming a row of which so many characters are too few: the ids would not be certain.
        """
        short: dict[int, str] = {}
        found: dict[int, list[int]] = {}
        for row, (text, max_length) in enumerate(zip(texts, max_lengths, strict=True)):
            if len(text) <= self._first:
                short[row] = text
            else:
                found[row] = self._beginning(text, row, max_length)
        found.update(zip(short, self.token_ids(list(short.values())), strict=True))
        rows = [self.truncate(found[row], max_length) for row, max_length in enumerate(max_lengths)]
        return rows, [len(found[row]) for row in range(len(rows))]

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text in full, special tokens included; at least one id."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        return [encoding.ids or [0] for encoding in encodings]

    def _beginning(self, text: str, row: int, max_length: int) -> list[int]:
        """Ids of a long text, or of as much of it as gives enough of them."""
        if self._cuts is None and len(text) > self.most_characters:
            raise TextError(
                f"text in row {row} has {len(text)} characters; at most {self.most_characters} are accepted, because "
                "this model's tokenizer is not known to read texts in pieces, so split it"
            )
        wanted = self._limit(max_length)
        ids = self._ids_within(text, self._first, self._counted)
        if ids is None:
            ids = self._ids_within(text, self.most_characters, wanted)
        if ids is None and self._cuts is not None:
            ids = self._ids_within(self._cuts.squeeze(text), self.most_characters, wanted)
        if ids is None:
            raise TextError(
                f"text in row {row} has {len(text)} characters, of which the first {self.most_characters} do not say "
                f"what its first {wanted} tokens are, and no more is read: split it, or take out what is no text, such "
                "as very long words"
            )
        return ids or [0]

    def _ids_within(self, text: str, most: int, enough: int) -> list[int] | None:
        """Ids of the text if it has at most so many characters, else of a beginning, None if they are not enough."""
        if len(text) <= most:
            return list(self._tokenizer.encode_batch_fast([text])[0].ids)
        end = 0 if self._cuts is None else self._cuts.last(text, most)
        ids: list[int] = self._tokenizer.encode_batch_fast([text[:end]])[0].ids if end else []
        return ids if end and len(ids) >= enough else None

    def _limit(self, max_length: int) -> int:
        """Tokens that a caller's ``max_length`` leaves of a longer text."""
        return max(self.model_min_length, min(max_length, self.model_max_length))

    def truncate(self, ids: list[int], max_length: int) -> list[int]:
        """Ids of one text cut to ``max_length``, within the model's bounds, special tokens kept.

        When not even the special tokens fit, the first of them remain.
        """
        limit = self._limit(max_length)
        if len(ids) <= limit:
            return ids
        content = limit - len(self._before) - len(self._after)
        if content < 0:
            return (self._before + self._after)[:limit]
        if self._cuts_left:
            return self._before + ids[len(ids) - len(self._after) - content :]
        return ids[: len(self._before) + content] + self._after


def filled(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Rows of ids as one array [rows, longest row], shorter rows filled up with :data:`FILLER`."""
    if len(rows) == 1:
        return np.array(rows, dtype=np.int64)
    result = np.full((len(rows), max(map(len, rows))), FILLER, dtype=np.int64)
    for row, ids in enumerate(rows):
        result[row, : len(ids)] = ids
    return result
