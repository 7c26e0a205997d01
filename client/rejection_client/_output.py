"""What the command writes: JSON lines, a table, and progress while it runs."""

import json
import sys
import time
import unicodedata

from rejection_client._lines import Row
from rejection_client._prediction import Prediction

PROGRESS_AFTER_S = 2.0
PROGRESS_EVERY_S = 0.5


def json_line(row: Row, prediction: Prediction) -> str:
    """One JSON object and a newline."""
    fields = {
        "text": row.text,
        "label": prediction.label,
        "score": prediction.score,
        "probabilities": dict(prediction.probabilities),
        "token_count": prediction.token_count,
    }
    return json.dumps(fields, ensure_ascii=False) + "\n"


class Table:
    """Lines of a table whose columns are set by the first prediction's label names."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._label_width = 0

    def lines(self, row: Row, prediction: Prediction) -> str:
        """The prediction's line, after the header if it is the first."""
        header = ""
        *_, positive = prediction.probabilities
        score_title = f"P({positive})"
        if not self._label_width:
            self._label_width = max(5, *map(len, prediction.probabilities))
            header = f"{'LABEL':<{self._label_width}}  {score_title}  TOKENS  TEXT\n"
        start = (
            f"{prediction.label:<{self._label_width}}  {prediction.score:>{len(score_title)}.4f}  "
            f"{prediction.token_count:>6}  "
        )
        return f"{header}{start}{shorten(row.text, max(20, self._width - len(start)))}\n"


def shorten(text: str, columns: int) -> str:
    """The text on one line of at most `columns` columns, without characters that would steer a terminal."""
    line = " ".join(text.split())[: columns + 1]
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    used = 0
    fits = 0
    for position, character in enumerate(line):
        used += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if used > columns:
            return line[:fits] + "\N{HORIZONTAL ELLIPSIS}"
        if used < columns:
            fits = position + 1
    return line


class Progress:
    """A count and a rate on standard error, for runs that last; silent unless `shown`."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._start_s = time.monotonic()
        self._next_s = self._start_s + PROGRESS_AFTER_S
        self._drawn = False
        self.done = 0

    def add(self, texts: int) -> None:
        """Count texts as done."""
        self.done += texts
        now_s = time.monotonic()
        if self._shown and now_s >= self._next_s:
            self._next_s = now_s + PROGRESS_EVERY_S
            rate = self.done / (now_s - self._start_s)
            sys.stderr.write(f"\r{self.done:,} texts, {rate:,.0f} texts/s\x1b[K")
            sys.stderr.flush()
            self._drawn = True

    def clear(self) -> None:
        """Take the line off the terminal."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def __enter__(self) -> "Progress":
        """Give the progress itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the line off the terminal."""
        self.clear()
