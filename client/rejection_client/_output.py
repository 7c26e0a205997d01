"""What the command writes: JSON lines, CSV, a table, and progress while it runs."""

import csv
import io
import json
import sys
import time
import unicodedata
from collections.abc import Callable
from typing import Any

from rejection_client._lines import Row
from rejection_client._prediction import DocumentPrediction, Prediction, Unit

PROGRESS_AFTER_S = 2.0
PROGRESS_EVERY_S = 0.5
BAR_COLUMNS = 24

Format = Callable[[Row, Prediction], str]


def json_lines(threshold: float) -> Format:
    """One JSON object and a newline for each text; what the text was a field of comes along as `record`."""

    def line(row: Row, prediction: Prediction) -> str:
        fields = {"text": row.text, **_fields(prediction, threshold)}
        if row.record is not None:
            fields["record"] = row.record
        return to_json(fields)

    return line


def csv_lines(threshold: float) -> Format:
    """Comma-separated values with a header: the columns that the text came with, then those of the prediction."""
    header_written = False

    def line(row: Row, prediction: Prediction) -> str:
        nonlocal header_written
        given = {"text": row.text} if row.record is None else row.record
        found = _fields(prediction, threshold)
        del found["probabilities"]
        found = {name if name not in given else f"predicted_{name}": value for name, value in found.items()}
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        if not header_written:
            header_written = True
            writer.writerow([*given, *found])
        writer.writerow([*given.values(), *map(_cell, found.values())])
        return buffer.getvalue()

    return line


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def _fields(prediction: Prediction, threshold: float) -> dict[str, Any]:
    return {
        "label": prediction.label,
        "score": prediction.score,
        "is_rejection": prediction.is_rejection(threshold),
        "probabilities": dict(prediction.probabilities),
        "token_count": prediction.token_count,
        "truncated": prediction.truncated,
    }


def to_json(fields: dict[str, Any]) -> str:
    """One JSON object and a newline."""
    return json.dumps(fields, ensure_ascii=False) + "\n"


class Table:
    """Lines of a table whose columns are set by the first prediction's label names."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._label_width = 0

    def lines(self, row: Row, prediction: Prediction) -> str:
        """The prediction's line, after the header if it is the first; a star after the count of a truncated text."""
        header = ""
        *_, positive = prediction.probabilities
        score_title = f"P({positive})"
        if not self._label_width:
            self._label_width = max(5, *map(len, prediction.probabilities))
            header = f"{'LABEL':<{self._label_width}}  {score_title}  TOKENS  TEXT\n"
        star = "*" if prediction.truncated else " "
        start = (
            f"{prediction.label:<{self._label_width}}  {prediction.score:>{len(score_title)}.4f}  "
            f"{prediction.token_count:>6}{star} "
        )
        return f"{header}{start}{shorten(row.text, max(20, self._width - len(start)))}\n"


def document_lines(text: str, answer: DocumentPrediction, threshold: float, output: str, width: int) -> str:
    """The answer for a document: every part in `answer.units`, else the highest."""
    units = answer.units or (answer.highest,)
    if output == "jsonl":
        return "".join(to_json(_unit_fields(text, unit, answer, threshold)) for unit in units)
    table = Table(max(40, width - 16))
    lines = "".join(table.lines(Row(text[unit.start : unit.end], ""), unit.prediction) for unit in units).splitlines()
    spans = ["CHARACTERS", *(f"{unit.start}-{unit.end}" for unit in units)]
    return "".join(f"{span:>14}  {line}\n" for span, line in zip(spans, lines, strict=True))


def _unit_fields(text: str, unit: Unit, answer: DocumentPrediction, threshold: float) -> dict[str, Any]:
    place = {"start": unit.start, "end": unit.end, "highest": unit == answer.highest, "unit_count": answer.unit_count}
    return {"text": text[unit.start : unit.end], **place, **_fields(unit.prediction, threshold)}


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
    """A bar, a count and a rate on standard error, for runs that last; silent unless `shown`."""

    def __init__(self, shown: bool, total: int | None = None) -> None:
        self._shown = shown
        self._total = total
        self._start_s = time.monotonic()
        self._next_s = self._start_s + PROGRESS_AFTER_S
        self._drawn = False
        self.done = 0

    def add(self, texts: int, position: int = 0) -> None:
        """Count texts as done, which brings the run to `position` of its `total`."""
        self.done += texts
        now_s = time.monotonic()
        if self._shown and now_s >= self._next_s:
            self._next_s = now_s + PROGRESS_EVERY_S
            rate = self.done / (now_s - self._start_s)
            sys.stderr.write(f"\r{self._bar(position)}{self.done:,} texts, {rate:,.0f} texts/s\x1b[K")
            sys.stderr.flush()
            self._drawn = True

    def _bar(self, position: int) -> str:
        if not self._total:
            return ""
        share = min(1.0, position / self._total)
        full = round(share * BAR_COLUMNS)
        return f"[{'#' * full}{'.' * (BAR_COLUMNS - full)}] {share:4.0%}  "

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
