"""Texts from arguments and files: lines, a field of JSON lines, or a column of CSV."""

import csv
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple


class Row(NamedTuple):
    """One text to classify, and where it is from."""

    text: str
    place: str
    """What to call it in a message."""

    record: Mapping[str, Any] | None = None
    """What the text is a field of, None for a plain line."""

    bytes_read: int = 0
    """Bytes of the input up to here."""


class Form(NamedTuple):
    """How texts stand in the input."""

    kind: str = "lines"
    """One of lines, jsonl and csv."""

    field: str = "text"
    """Name of the field or column with the text."""


class InputError(Exception):
    """The input as a whole cannot be read; the message is a sentence."""


def argument_rows(texts: Sequence[str]) -> Iterator[Row]:
    """A row for each argument."""
    for number, text in enumerate(texts, 1):
        yield Row(text, f"argument {number}", bytes_read=number)


def file_rows(paths: Sequence[str], form: Form, on_problem: Callable[[str], None]) -> Iterator[Row]:
    """The rows of files, one after the other; standard input where there are none, or for `-`.

    A line without a usable text is told to `on_problem` and left out. Raises InputError, OSError.
    """
    before = 0
    for path in paths or ["-"]:
        end = 0
        with _open(path) as stream:
            for row in read_rows(stream, form, on_problem, "" if path == "-" else f"{path} "):
                end = row.bytes_read
                yield row._replace(bytes_read=before + end)
        before += end


def input_bytes(paths: Sequence[str]) -> int | None:
    """Length of all input together, None where it cannot be known."""
    total = 0
    for path in paths or ["-"]:
        try:
            status = os.fstat(0) if path == "-" else os.stat(path)  # noqa: PTH116  # as for the descriptor
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        total += status.st_size
    return total


def read_rows(stream: BinaryIO, form: Form, on_problem: Callable[[str], None], prefix: str = "") -> Iterator[Row]:
    r"""Read rows, without holding one back for the next, so that results keep up with a slow writer.

    Lines end in \n or \r\n. Bytes that are not UTF-8 become lone surrogates, which the client refuses by row.
    """
    lines = _lines(stream)
    if form.kind == "csv":
        yield from _csv_rows(lines, form.field, on_problem, prefix)
        return
    for number, (line, end) in enumerate(lines, 1):
        place = f"{prefix}line {number}"
        text = line.removesuffix(b"\r").decode(errors="surrogateescape")
        if form.kind == "lines":
            yield Row(text, place, None, end)
        elif text.strip():
            record = _json_object(text)
            if isinstance(value := record.get(form.field), str):
                yield Row(value, place, record, end)
            else:
                on_problem(f"{place} is not a JSON object with a text in its field '{form.field}'")


def _json_object(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _csv_rows(
    lines: Iterable[tuple[bytes, int]], field: str, on_problem: Callable[[str], None], prefix: str
) -> Iterator[Row]:
    read = 0

    def decoded() -> Iterator[str]:
        nonlocal read
        for line, end in lines:
            read = end
            yield line.decode(errors="surrogateescape") + "\n"

    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(decoded())
    header = next(reader, None)
    if header is None:
        return
    header[0] = header[0].removeprefix("\ufeff")
    if field not in header:
        raise InputError(f"{prefix}has no column '{field}'; its first line names {', '.join(header)}".strip())
    column = header.index(field)
    for cells in reader:
        if not cells:
            continue
        place = f"{prefix}line {reader.line_num}"
        if len(cells) == len(header):
            yield Row(cells[column], place, dict(zip(header, cells, strict=True)), read)
        else:
            on_problem(f"{place} has {len(cells)} columns where the first line has {len(header)}")


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each line without its end, and the bytes read up to there."""
    read = 0
    for line in iter(stream.readline, b""):
        read += len(line)
        yield line.removesuffix(b"\n"), read


def _open(path: str) -> BinaryIO:
    """The file, or for `-` standard input, through a buffer of its own: the process may end while a thread reads."""
    if path == "-":
        # None is Python's sign for a closed descriptor.
        return Path(os.devnull).open("rb") if sys.stdin is None else open(sys.stdin.fileno(), "rb", closefd=False)
    return Path(path).open("rb")


def read_document(path: str) -> str:
    """A whole file, or standard input for `-`, as one text; raises InputError for bytes that are not UTF-8."""
    with _open(path) as stream:
        raw = stream.read()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        name = "standard input" if path == "-" else path
        raise InputError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from error
