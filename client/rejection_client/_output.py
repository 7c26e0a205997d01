"""What the command writes for texts: JSON lines and CSV here, a table in `_table`."""

import csv
import functools
import io
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from rejection_client._prediction import DocumentPrediction, ModelInfo, Prediction
from rejection_client._rows import Row

T = TypeVar("T", contravariant=True)


class Style(NamedTuple):
    """What the form of all results depends on."""

    model: ModelInfo
    threshold: float
    width: int = 100
    """Columns of a table."""


class Output(Protocol[T]):
    """Makes lines of results: what was found of each row, by one model or by several, or why nothing was."""

    def found(self, row: Row, found: T, /) -> str:
        """The lines of a row that was classified."""

    def failed(self, row: Row, error: str) -> str:
        """The lines of a row that was not."""

    def end(self) -> str:
        """What is left to write after the last row."""


def fields_of(prediction: Prediction, style: Style) -> dict[str, Any]:
    """What is said of a prediction in every form, in this order."""
    model, threshold, _ = style
    fields: dict[str, Any] = {"label": prediction.label}
    if model.is_multi_label:
        fields["labels"] = list(prediction.labels_above(threshold))
    if model.positive_label is not None:
        fields |= {"score": prediction.score, "is_rejection": prediction.is_rejection(threshold)}
    return fields | {
        "scores": dict(prediction.scores),
        "token_count": prediction.token_count,
        "truncated": prediction.truncated,
    }


def place_of(row: Row) -> dict[str, Any]:
    """File and line of a row, as far as it has them."""
    return {name: value for name, value in (("file", row.file), ("line", row.line)) if value is not None}


def text_of(row: Row) -> str | None:
    """The row's text, None where it has none."""
    return row.text if row.problem is None else None


class JsonLines(Generic[T]):
    """One JSON object a line; what the text was a field of comes along as `record`.

    `fields` says what is told of what was found.
    """

    def __init__(self, fields: Callable[[T], dict[str, Any]]) -> None:
        self._fields = fields

    def found(self, row: Row, found: T) -> str:
        """The object of a row that was classified."""
        return self._line(row, self._fields(found))

    def failed(self, row: Row, error: str) -> str:
        """The object of a row that was not."""
        return self._line(row, {"error": error})

    def end(self) -> str:
        """Nothing."""
        return ""

    def begins(self, row: Row) -> str:
        """How the line of a row begins, whatever is found."""
        return to_json({"text": text_of(row), **place_of(row)})[: -len("}\n")] + ", "

    def _line(self, row: Row, fields: dict[str, Any]) -> str:
        record = {} if row.record is None else {"record": row.record}
        return to_json({"text": text_of(row), **place_of(row), **fields, **record})


class Csv(Generic[T]):
    """Comma-separated values with a header: the columns that came in, the row's place, then what was found.

    The first row with a record sets the columns that came in; rows before it wait for that. `columns` are those of what
    was found, with the value in each.
    """

    def __init__(self, columns: Mapping[str, Callable[[T], Any]], places: Sequence[str]) -> None:
        self._places = places
        self._found = columns
        self._given: list[str] | None = None
        self._waiting: list[tuple[Row, str]] = []

    def found(self, row: Row, found: T) -> str:
        """The line of a row that was classified."""
        return self._head(row) + self._line(row, found)

    def failed(self, row: Row, error: str) -> str:
        """The line of a row that was not."""
        if self._given is None and row.record is None and row.problem is not None:
            self._waiting.append((row, error))
            return ""
        return self._head(row) + self._line(row, None, error)

    def end(self) -> str:
        """Rows that wait for one with a record, if none came."""
        return self._head(Row("", "")) if self._waiting else ""

    def begins(self, row: Row) -> str:
        """How the line of a row begins, whatever is found; only once there is a header."""
        return csv_line([*self._before_found(row), ""])[: -len("\n")]

    def adopt_header(self, header: str) -> bool:
        """Go on below a header that was written before; False if this would never have written it."""
        names = next(csv.reader([header]), [])
        self._given = names[: -len([*self._places, *self._found, "error"])]
        if not self._given or csv_line(self._names()) != header:
            self.forget_header()
            return False
        return True

    def forget_header(self) -> None:
        """Let the first row make one."""
        self._given = None

    def _head(self, first: Row) -> str:
        """Before the first row, the header and the rows that wait for it."""
        if self._given is not None:
            return ""
        self._given = ["text"] if first.record is None else list(first.record)
        waiting, self._waiting = self._waiting, []
        return csv_line(self._names()) + "".join(self._line(row, None, error) for row, error in waiting)

    def _names(self) -> list[str]:
        names = list(self._given or ())
        for name in (*self._places, *self._found, "error"):
            names.append(unique(name, names))
        return names

    def _before_found(self, row: Row) -> list[Any]:
        record = {"text": text_of(row)} if row.record is None else row.record
        place = place_of(row)
        return [*(record.get(name) for name in self._given or ()), *(place.get(name) for name in self._places)]

    def _line(self, row: Row, found: T | None, error: str = "") -> str:
        values = [None if found is None else value_of(found) for value_of in self._found.values()]
        return csv_line([*self._before_found(row), *values, error])


def found_columns(style: Style) -> dict[str, Callable[[Prediction], Any]]:
    """The columns of CSV that hold a prediction, in order: one for each label among them."""
    model, threshold, _ = style
    columns: dict[str, Callable[[Prediction], Any]] = {"label": lambda prediction: prediction.label}
    if model.is_multi_label:
        columns["labels"] = lambda prediction: ", ".join(prediction.labels_above(threshold))
    if model.positive_label is not None:
        columns["score"] = lambda prediction: prediction.score
        columns["is_rejection"] = lambda prediction: prediction.is_rejection(threshold)
    for label in model.labels:
        columns[unique(label, [*columns, "token_count", "truncated", "error"])] = functools.partial(score_of, label)
    columns["token_count"] = lambda prediction: prediction.token_count
    columns["truncated"] = lambda prediction: prediction.truncated
    return columns


def score_of(label: str, prediction: Prediction) -> float:
    """The score of one label."""
    return prediction.scores[label]


def unique(name: str, taken: Collection[str]) -> str:
    """The name, with `predicted_` in front as often as it takes to be another than those."""
    while name in taken:
        name = f"predicted_{name}"
    return name


def csv_line(cells: Sequence[Any]) -> str:
    """One record of CSV and a newline; JSON for what is more than a text or a number."""
    buffer = io.StringIO()
    plain = [to_json(cell).rstrip() if isinstance(cell, bool | dict | list) else cell for cell in cells]
    csv.writer(buffer, lineterminator="\n").writerow(plain)
    return buffer.getvalue()


def to_json(value: Any) -> str:
    """One JSON value and a newline; what JSON has no form for (a date of Parquet, say) becomes text, or null (NaN)."""
    try:
        told = json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        told = json.dumps(_finite(value), ensure_ascii=False, default=str)
    return told + "\n"


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON has not: NaN, which is a missing number of Parquet, and infinity."""
    if isinstance(value, Mapping):
        return {name: _finite(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def document_json(text: str, answer: DocumentPrediction, style: Style) -> str:
    """A JSON object for each part of a document in `answer.units`, else for the highest."""
    lines = []
    for unit in answer.units or (answer.highest,):
        place = {"start": unit.start, "end": unit.end, "highest": unit == answer.highest}
        fields = {**place, "unit_count": answer.unit_count, **fields_of(unit.prediction, style)}
        lines.append(to_json({"text": text[unit.start : unit.end], **fields}))
    return "".join(lines)
