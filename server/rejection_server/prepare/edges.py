"""Texts at which two readings of a model come apart, where everyday texts agree. They are in every comparison."""

import json
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FILLING", "edge_texts"]

FIXED = Path(__file__).parent / "edges.jsonl"
"""Nothing and only white space, control characters, letters with several spellings, every script, signs, long words."""
FILLING = "The ferry was late, and nobody minded. "
"""What the long texts are made of."""
MOST_SPECIAL = 12
"""Of so many of the tokenizer's special tokens texts are made; some have hundreds that are alike."""
_BEGIN, _END = "Sorry, I will not do that. ", " Here is all that you asked for."


def edge_texts(special_tokens: Sequence[str], filling_tokens: int, longest: int) -> list[str]:
    """The fixed texts, some with the tokenizer's special tokens in them, and some longer than the model takes.

    `filling_tokens` are the tokens of `FILLING`, `longest` those of the longest text.
    """
    fixed = [json.loads(line)["text"] for line in FIXED.read_text(encoding="utf-8").splitlines()]
    special = list(dict.fromkeys(special_tokens))[:MOST_SPECIAL]
    return list(dict.fromkeys([*fixed, *_with_special(special), *_long(max(1, filling_tokens), longest)]))


def _with_special(tokens: Sequence[str]) -> list[str]:
    texts = []
    for token in tokens:
        texts += [token, f"one {token} two", f"one{token}two {token}{token} three", f"{token} first, last {token}"]
        texts.append(f"{token.swapcase()} is another one")
    return [*texts, " ".join(tokens), f"one{''.join(tokens)}two"]


def _long(filling_tokens: int, longest: int) -> list[str]:
    """About as long as the longest text, a little longer, and twice as long: what counts stands at either end."""
    once = FILLING * max(1, longest // filling_tokens - 4)
    over = FILLING * (longest // filling_tokens + 4)
    return [once, f"{_BEGIN}{over}{_END}", f"{_END}{over}{over}{_BEGIN}", "word " * (2 * longest), "a" * (2 * longest)]
