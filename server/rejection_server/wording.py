"""Other people's words within one-sentence messages of ours."""

import re

__all__ = ["last_line", "one_line", "printable"]

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)")
"""What colours a terminal or moves its cursor."""


def printable(text: str) -> str:
    """A text of somebody else's on one line, line breaks and what a terminal obeys written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """The error's words on one printable line, at most about `limit` characters of them; its type where it has none."""
    words = "".join(c if c.isprintable() else " " for c in _ESCAPES.sub("", str(error)))
    line = " ".join(words.split()).rstrip(" .:")
    if len(line) > limit:
        line = line[:limit].rsplit(" ", 1)[0].rstrip(" .:,(") + " ..."
    return line or type(error).__name__


def last_line(said: str) -> str:
    """The last line of what a program said, at most 200 characters of it: what it ended with."""
    return (said.strip().splitlines() or ["it said nothing"])[-1][:200]
