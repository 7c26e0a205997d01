"""Text to token ids, without Triton: decode, count, truncate, fill up. ``model.py`` beside it adapts Triton to this.

A text longer than its limit is truncated as Hugging Face does with ``truncation=True``: the first tokens stay, or the
last ones where ``tokenizer.json`` cuts on the left, and the special tokens around them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

MAX_TEXT_BYTES = 1 << 20
"""Longest text, in bytes of UTF-8 (1 MiB); a longer one is refused before it costs anything."""

FILLER = -1
"""Fills rows up to the longest of their request. In no vocabulary, so that the classifier's graph can drop it."""


class TextError(ValueError):
    """A text or its option cannot be used; the message names the row and what is wrong with it."""


def decode(texts: Sequence[bytes]) -> list[str]:
    """Decode UTF-8. Raises :class:`TextError` naming the first row that is too long or not UTF-8."""
    decoded = []
    for row, text in enumerate(texts):
        if len(text) > MAX_TEXT_BYTES:
            raise TextError(
                f"text in row {row} has {len(text)} bytes; at most {MAX_TEXT_BYTES} (1 MiB) are accepted, so split it"
            )
        try:
            decoded.append(text.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise TextError(
                f"text in row {row} is not valid UTF-8: {error.reason} at byte {error.start}; encode it as UTF-8"
            ) from error
    return decoded


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
        self._tokenizer = Tokenizer.from_file(str(path))
        self._cuts_left = (self._tokenizer.truncation or {}).get("direction") == "left"
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.model_max_length = model_max_length
        self.model_min_length = model_min_length
        self._before, self._after = self._special_tokens()

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts before and after a text."""
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        full = self._tokenizer.encode("a").ids
        for start in range(len(full) - len(bare) + 1):
            if bare and full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        raise ValueError("this tokenizer does more than put special tokens around a text; such a one cannot be served")

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text in full, special tokens included; at least one id."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        return [encoding.ids or [0] for encoding in encodings]

    def truncate(self, ids: list[int], max_length: int) -> list[int]:
        """Ids of one text cut to ``max_length``, within the model's bounds, special tokens kept.

        When not even the special tokens fit, the first of them remain.
        """
        limit = max(self.model_min_length, min(max_length, self.model_max_length))
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
