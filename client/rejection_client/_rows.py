"""What the command classifies: rows, each a text with its place in the input; and how a text is found in a record."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

UNSENDABLE = "\ud800"
"""Stands for a text that is missing. The client refuses it by itself, so its row keeps its place among the results."""


class Row(NamedTuple):
    """One text to classify, and where it is from."""

    text: str
    place: str
    """What to call it in a message."""

    record: Mapping[str, Any] | None = None
    """What the text is a field of, None for a plain line."""

    bytes_read: int = 0
    """Bytes of the input up to here."""

    line: int | None = None
    """Line in its file, from 1, or row of a Parquet file; None for an argument."""

    file: str | None = None
    """The file, None for standard input and arguments."""

    problem: str | None = None
    """Why there is no text; None where there is one. Said of `place`."""


class Form(NamedTuple):
    """How texts stand in the input."""

    kind: str = "lines"
    """One of lines, jsonl, csv and parquet."""

    field: str = "text"
    """Name of the field or column with the text; in nested records a path, as in `messages.0.content`."""

    delimiter: str = ","
    """Between the cells of CSV."""


class InputError(Exception):
    """The input as a whole cannot be read; the message is a sentence."""


class UsageError(InputError):
    """Options that do not go together, or not with the model; the message is a sentence."""


def argument_rows(texts: Sequence[str]) -> Iterator[Row]:
    """A row for each argument."""
    for number, text in enumerate(texts, 1):
        yield Row(text, f"argument {number}", bytes_read=number)


def record_row(record: Mapping[str, Any], field: str, row: Row) -> Row:
    """The row with the text that a record has in a field, or with what is wrong with it."""
    value: Any = record
    for part in [field] if field in record else field.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.lstrip("-").isdecimal() and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            return row._replace(record=record, problem=f"has no field '{field}'")
    if not isinstance(value, str):
        kind = {type(None): "null", bool: "a truth value", int: "a number", float: "a number"}.get(type(value))
        return row._replace(
            record=record, problem=f"has {kind or 'no text'} in its field '{field}', where a text belongs"
        )
    return row._replace(text=value, record=record)
