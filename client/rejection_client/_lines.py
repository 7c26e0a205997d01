"""Rows from files and standard input: lines, JSON lines, CSV and Parquet."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from rejection_client._parquet import parquet_columns, parquet_rows
from rejection_client._rows import UNSENDABLE, Form, InputError, Row, record_row
from rejection_client._sources import BOM, name_of, opened, packed_position

DELIMITERS = {".tsv": "\t", ".tab": "\t"}
"""Of files with these names, where none is given."""
KINDS = {".csv": "csv", ".tsv": "csv", ".tab": "csv", ".parquet": "parquet", ".pq": "parquet"}
"""Of files with these names, where none is given; of all others it is jsonl."""
CONVERT = "convert the input first, with iconv -t UTF-8"

_BYTE = re.compile("[\udc80-\udcff]")
"""A byte that is not UTF-8, as Python's error handler `surrogateescape` spells it."""
_ONE_VALUE = re.compile(r"\s*(\[\s*(\{.*)?|\{\s*)", re.DOTALL)
"""The first line of a file that holds one JSON value, an array of objects or an object on several lines."""


def form_of(path: str, kind: str | None, field: str, delimiter: str | None) -> Form:
    """The form of a file whose texts are in a field, with what is not given taken from its name."""
    name = Path(path)
    suffix = name.with_suffix("").suffix.lower() if name.suffix.lower() == ".gz" else name.suffix.lower()
    return Form(kind or KINDS.get(suffix, "jsonl"), field, delimiter or DELIMITERS.get(suffix, ","))


def file_rows(files: Sequence[tuple[str, Form]]) -> Iterator[Row]:
    """The rows of files, one after the other; `-` is standard input. Raises InputError, OSError."""
    before = 0
    for path, form in files:
        end = 0
        for row in _rows_of(path, form):
            end = row.bytes_read
            yield row._replace(bytes_read=before + end)
        before += end


def _rows_of(path: str, form: Form) -> Iterator[Row]:
    if form.kind == "parquet":
        yield from parquet_rows(path, form.field)
        return
    with opened(path) as stream:
        for row in read_rows(stream, form, None if path == "-" else path):
            yield row._replace(bytes_read=packed_position(stream, row.bytes_read))


def check_columns(files: Sequence[tuple[str, Form]]) -> None:
    """Raise InputError unless files with columns all have the same; standard input is not looked at."""
    first: tuple[str, Sequence[str]] | None = None
    for path, form in files:
        columns = _columns_of(path, form)
        if columns is None:
            continue
        if first is None:
            first = path, columns
        elif set(columns) != set(first[1]):
            raise InputError(
                f"{path} has the columns {', '.join(columns)}, and {first[0]} has {', '.join(first[1])}: one CSV "
                "cannot hold both; classify them one by one, or write --output jsonl"
            )


def _columns_of(path: str, form: Form) -> Sequence[str] | None:
    if form.kind == "parquet":
        return parquet_columns(path)
    if form.kind != "csv" or path == "-":
        return None
    with opened(path) as stream:
        return next(_cells(_lines(stream), form.delimiter, name_of(path)), ([], 0, 0))[0]


def read_rows(stream: BinaryIO, form: Form, file: str | None = None) -> Iterator[Row]:
    r"""Read rows, without holding one back for the next, so that results keep up with a slow writer.

    Lines end in \n or \r\n; a byte order mark is skipped. Blank lines between records are no rows.
    """
    if form.kind == "csv":
        yield from _csv_rows(_lines(stream), form, file)
        return
    is_first = form.kind == "jsonl"
    for number, (line, end) in enumerate(_lines(stream), 1):
        row = _row(file, number, end)
        try:
            text = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            yield row._replace(problem=f"is not UTF-8: {error.reason} at byte {error.start + 1}; {CONVERT}")
            continue
        if form.kind == "lines":
            yield row._replace(text=text)
        elif text.strip():
            if is_first:
                _check_first(text, file)
            is_first = False
            yield _json_row(text, form.field, row)


def _check_first(text: str, file: str | None) -> None:
    """Raise InputError if JSON that begins with this line is one value rather than one a line."""
    if found := _ONE_VALUE.fullmatch(text):
        items = ".[]" if found[1].startswith("[") else "."
        raise InputError(
            f"{file or 'standard input'} holds one JSON value, not one in each line; convert it first: "
            f"jq -c '{items}'" + ("" if file is None else f" '{file}'")
        )


def _row(file: str | None, line: int, end: int) -> Row:
    place = f"line {line}" if file is None else f"{file} line {line}"
    return Row(UNSENDABLE, place, bytes_read=end, line=line, file=file)


def _json_row(text: str, field: str, row: Row) -> Row:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        return row._replace(problem=f"is not JSON: {error.msg} at character {error.pos + 1}")
    except (ValueError, RecursionError):
        return row._replace(problem="is not JSON that can be read: a number too long, or nested too deep")
    if not isinstance(record, dict):
        return row._replace(problem=f"is not a JSON object with a text in its field '{field}'")
    return record_row(record, field, row)


def _csv_rows(lines: Iterable[tuple[bytes, int]], form: Form, file: str | None) -> Iterator[Row]:
    records = _cells(lines, form.delimiter, file or "standard input")
    header, _, _ = next(records, ([], 0, 0))
    if not header:
        return
    name = file or "standard input"
    if form.field not in header:
        hint = "" if len(header) > 1 else "; if that is more than one column, tell what divides them with --delimiter"
        raise InputError(f"{name} has no column '{form.field}'; its first line names {_quoted(header)}{hint}")
    if len(set(header)) < len(header):
        twice = next(column for column in header if header.count(column) > 1)
        raise InputError(f"{name} has two columns '{twice}'; rename one in its first line")
    for cells, line, end in records:
        row = _row(file, line, end)
        record = dict(zip(header, cells, strict=False))
        if len(cells) == len(header):
            text = record[form.field]
            problem = f"is not UTF-8 in its column '{form.field}'; {CONVERT}" if _BYTE.search(text) else None
            yield row._replace(text=UNSENDABLE if problem else text, record=record, problem=problem)
        else:
            counted = f"has {len(cells)} columns where the first line has {len(header)}"
            yield row._replace(record=record, problem=counted)


def _quoted(names: Sequence[str]) -> str:
    """Names in quotes, so that white space around one is seen."""
    return ", ".join(f"'{name}'" for name in names)


def _cells(lines: Iterable[tuple[bytes, int]], delimiter: str, name: str) -> Iterator[tuple[list[str], int, int]]:
    """Each record of CSV: its cells, the line where it begins, and the bytes read up to its end."""
    read = 0
    is_over = False

    def decoded() -> Iterator[str]:
        nonlocal read, is_over
        for line, end in lines:
            read = end
            yield line.decode(errors="surrogateescape") + "\n"
        is_over = True

    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(decoded(), delimiter=delimiter)
    while True:
        begins = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{name} line {begins} is not CSV: {error}") from error
        if is_over:  # the reader takes the end of the file for the end of the cell
            raise InputError(
                f"{name} line {begins} has a quote that is never closed: all lines from there on would be one cell"
            )
        if cells:
            yield cells, begins, read


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each line without its end, and the bytes read up to there."""
    read = 0
    for line in iter(stream.readline, b""):
        start = line.removeprefix(BOM) if read == 0 else line
        read += len(line)
        yield start.removesuffix(b"\n"), read
