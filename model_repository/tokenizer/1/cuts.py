"""Where a text may be cut so that the tokens of its beginning are the first tokens of the whole.

A tokenizer of the `tokenizers` library is a chain: added tokens are found, what is between them is normalised, split
into words, and each word is tokenised by itself. So a cut is sound where a word ends whatever follows, and no earlier
step looks across it. That is so between a character of `_ENDS` and the blank after it, if

- every normaliser works on single characters or on what a blank ends: Unicode's forms, since a blank neither composes
  nor is reordered; SentencePiece's map, since a grapheme ends before a blank; replacements of what has no blank behind
  something else. Besides, none may take away a character of `_ENDS` or make a blank of it, which is tried;
- some pre-tokenizer ends a word there, and all others decide by neighbouring characters or by an expression of which no
  match goes on from a non-blank to this blank;
- no added token has a blank behind something else, so that none lies across the cut. Blanks that one takes away
  with it are behind the cut, too.

For texts without blanks, `_WORDS` has further places for two kinds of tokenizer, where the splitting is known to the
character. What is not known here is not cut at all.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["SPLIT_PATTERNS", "Cuts", "find_cuts"]

_HAN = "\u4e00-\u9fa5"
_MARKS = r"!-/:-@\[-`{-~"
_ENDS = (
    f"!-~\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0391-\u03a1\u03a3-\u03c9\u0400-\u0481\u048a-\u052f\u05d0-\u05ea"
    f"\u0620-\u063f\u0641-\u064a\u0905-\u0939\u0e01-\u0e30\u3041-\u3096\u30a1-\u30fa{_HAN}\uac00-\ud7a3"
)
"""Printable ASCII and letters of common scripts: none combines with what follows, and none is a blank to anybody."""

_BLANKS_BY_PRE_TOKENIZER = {"BertPreTokenizer": " \n", "WhitespaceSplit": " \n", "Whitespace": " \n"}
SPLIT_PATTERNS = frozenset(
    {
        # Of Llama 3 and of Qwen 2: what takes in marks may take in the end of a line behind them, but no blank.
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
    }
)
"""Expressions of `Split` that are known."""
_BLANK_PATTERNS = frozenset({r"\s{2,}|[\n\r\t]", " {2,}", r"\s+", r"\s{2,}"})
"""Expressions of `Replace` that match nothing but blanks."""
_PLAIN_NORMALIZERS = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase"})
_NORMALIZERS = _PLAIN_NORMALIZERS | {"BertNormalizer", "StripAccents", "Strip", "Nmt", "Precompiled", "Prepend"}

_WORDS = {
    # Marks are words of their own, and so are Chinese characters.
    "BertPreTokenizer": f"[!-~](?=[{_MARKS}])|[{_MARKS}](?=[!-~])|[{_HAN}](?=[{_HAN}])",
    # A run of letters or of digits ends before anything else. A run of marks may go on with a letter: 's.
    "ByteLevel": rf"[0-9A-Za-z{_HAN}](?=[{_MARKS}，。；：？！、])|[0-9](?=[A-Za-z{_HAN}])|[A-Za-z{_HAN}](?=[0-9])",
}
_LONG_WORD = "(?<![0-9A-Za-z])([0-9A-Za-z]{%d})[0-9A-Za-z]+"
_LONG_BLANK = r"(?<![ \t\n\r])([ \t\n\r])[ \t\n\r]+"


class Cuts:
    """The places at which one tokenizer's texts may be cut.

    Args:
        ends: matches whatever ends at such a place.
        whole: added tokens which must not be cut.
        squeezed: matches what can be shortened to its first group without changing a token; None if nothing can.
    """

    def __init__(self, ends: str, whole: Sequence[str] = (), squeezed: str | None = None) -> None:
        self._ends = re.compile(ends)
        self._whole = whole
        self._squeezed = None if squeezed is None else re.compile(squeezed)

    def last(self, text: str, most: int) -> int:
        """The last place among the first `most` characters, at least one of them before it; 0 if there is none."""
        width = 256
        while True:
            start = max(0, most - width)
            # One more character, which decides whether there is a place after `most`.
            places = [found.end() for found in self._ends.finditer(text, start, most + 1) if found.end() <= most]
            for place in reversed(places):
                if not self._is_within(text, place):
                    return place
            if start == 0:
                return 0
            width *= 4

    def squeeze(self, text: str) -> str:
        """A text with the same tokens that may be shorter: long words and long runs of blanks count as one anyway."""
        if self._squeezed is None:
            return text
        return self._squeezed.sub(lambda found: found[found.lastindex or 0], text)

    def _is_within(self, text: str, place: int) -> bool:
        return any(
            text.find(token, max(0, place - len(token) + 1), place + len(token) - 1) >= 0 for token in self._whole
        )


def find_cuts(settings: Mapping[str, Any], normalized: Callable[[str], str]) -> Cuts | None:
    """Where texts may be cut for a tokenizer; None if nothing is known about it.

    `settings`: a `tokenizer.json`; `normalized`: what its normaliser makes of a text.
    """
    normalizers = _flat(settings.get("normalizer"), "normalizers")
    pre_tokenizers = _flat(settings.get("pre_tokenizer"), "pretokenizers")
    blanks = [_blanks(pre_tokenizer) for pre_tokenizer in pre_tokenizers]
    has_metaspace = any(pre_tokenizer["type"] == "Metaspace" for pre_tokenizer in pre_tokenizers)
    added = [token["content"] for token in settings.get("added_tokens") or ()]
    if (
        settings["model"].get("dropout")
        or any(found is None for found in blanks)
        or not all(_keeps(normalizer, has_metaspace) for normalizer in normalizers)
        or any(re.search(r"\S\s", form) for token in added for form in (token, normalized(token)))
        or not _keeps_ends(normalized)
    ):
        return None
    before = "".join(sorted(set("".join(filter(None, blanks)))))
    if not before:
        return None
    ends = f"[{_ENDS}](?=[{before}])"
    kind = pre_tokenizers[0]["type"]
    is_bare = len(pre_tokenizers) == 1 and kind in _WORDS
    is_plain = all(normalizer["type"] in _PLAIN_NORMALIZERS for normalizer in normalizers)
    if kind == "BertPreTokenizer":
        is_plain = len(normalizers) == 1 and _is_bert(normalizers[0])
    if not (is_bare and is_plain) or any(
        t["normalized"] or t["single_word"] for t in settings.get("added_tokens") or ()
    ):
        return Cuts(ends)
    return Cuts(f"{ends}|{_WORDS[kind]}", added, _squeezed(settings["model"], added) if "Bert" in kind else None)


def _flat(part: Mapping[str, Any] | None, members: str) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [leaf for member in part[members] for leaf in _flat(member, members)]
    return [part]


def _blanks(pre_tokenizer: Mapping[str, Any]) -> str | None:
    """The blanks before which a word ends; None if what it does is not known."""
    kind = pre_tokenizer["type"]
    if kind == "ByteLevel":
        return " \n" if pre_tokenizer.get("use_regex", True) else ""
    if kind == "Metaspace":
        return " " if pre_tokenizer.get("split", True) else None
    if kind == "Split":
        is_known = pre_tokenizer["pattern"].get("Regex") in SPLIT_PATTERNS
        return " " if is_known and pre_tokenizer["behavior"] == "Isolated" and not pre_tokenizer["invert"] else None
    if kind in ("Punctuation", "Digits"):
        return ""
    return _BLANKS_BY_PRE_TOKENIZER.get(kind)


def _keeps(normalizer: Mapping[str, Any], has_metaspace: bool) -> bool:
    """Whether it never looks from the end of a word to the blank behind it, and leaves a blank there."""
    if normalizer["type"] != "Replace":
        return normalizer["type"] in _NORMALIZERS
    pattern, content = normalizer["pattern"], normalizer["content"]
    literal = pattern.get("String")
    if pattern.get("Regex") in _BLANK_PATTERNS or (literal and not literal.strip()):
        return content == " " or (content == "▁" and has_metaspace)
    return bool(literal) and not re.search(r"\s", literal + content)


def _is_bert(normalizer: Mapping[str, Any]) -> bool:
    is_bert: bool = normalizer["type"] == "BertNormalizer"
    return is_bert and bool(normalizer["clean_text"] and normalizer["handle_chinese_chars"])


def _keeps_ends(normalized: Callable[[str], str]) -> bool:
    ends = re.compile(f"[{_ENDS}]")
    characters = [chr(code) for code in range(0xD7A4) if ends.match(chr(code))]
    return len(normalized(" ".join(characters)).replace("▁", " ").split()) == len(characters)


def _squeezed(model: Mapping[str, Any], added: Sequence[str]) -> str | None:
    if any(re.search(r"\s", token) or token.isalnum() for token in added):
        return None
    if model["type"] != "WordPiece":
        return _LONG_BLANK
    # Longer words are one unknown token, however long.
    return f"{_LONG_BLANK}|{_LONG_WORD % (model['max_input_chars_per_word'] + 1)}"
