"""Results as a Parquet file, with pyarrow, which the extra `parquet` installs."""

import functools
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rejection_client._files import named
from rejection_client._output import Style, found_columns, place_of, text_of, to_json, unique
from rejection_client._prediction import Prediction
from rejection_client._rows import InputError, Row

ROWS_IN_GROUP = 10_000
GROUP_BYTES = 16 << 20
"""Of texts and records, roughly, after which a row group ends earlier."""


class ParquetOutput:
    """Rows in groups: text, the row's place, what was found, error and the record as JSON. Readable once it is closed.

    Raises InputError without pyarrow, OSError where the file exists or cannot be made.
    """

    def __init__(self, path: str, style: Style, places: Sequence[str]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise InputError(
                f"writing Parquet needs pyarrow ({error}): pip install 'rejection-client[parquet]'"
            ) from error
        string, number, truth = pyarrow.string(), pyarrow.float64(), pyarrow.bool_()
        types = {"label": string, "labels": string, "score": number, "is_rejection": truth, "truncated": truth}
        types["token_count"] = pyarrow.int32()
        self._found = found_columns(style)
        self._places = places
        before = {"text": string, **{name: pyarrow.int64() if name == "line" else string for name in places}}
        found = {
            unique(name, [*before, "record"]): number if isinstance(value_of, functools.partial) else types[name]
            for name, value_of in self._found.items()
        }
        self._names = [*before, *found, "error", "record"]
        self._schema = pyarrow.schema([*before.items(), *found.items(), ("error", string), ("record", string)])
        self._table = pyarrow.Table
        self._rows: list[list[Any]] = []
        self._bytes = 0
        self._path = path
        self._file = Path(path).open("xb")  # noqa: SIM115  # __exit__ closes it
        self._writer = pyarrow.parquet.ParquetWriter(self._file, self._schema, compression="zstd")

    def found(self, row: Row, prediction: Prediction) -> str:
        """Take a row that was classified; nothing is left to write for the caller."""
        return self._take(row, [value_of(prediction) for value_of in self._found.values()], None)

    def failed(self, row: Row, error: str) -> str:
        """Take a row that was not."""
        return self._take(row, [None] * len(self._found), error)

    def end(self) -> str:
        """Nothing: `__exit__` ends the file, also after an interrupt."""
        return ""

    def _take(self, row: Row, found: list[Any], error: str | None) -> str:
        place = place_of(row)
        record = None if row.record is None else to_json(row.record).rstrip()
        values = [text_of(row), *(place.get(name) for name in self._places), *found, error, record]
        values = [_sendable(value) if isinstance(value, str) else value for value in values]
        self._rows.append(values)
        self._bytes += len(values[0] or "") + len(record or "")
        if len(self._rows) >= ROWS_IN_GROUP or self._bytes >= GROUP_BYTES:
            self._write_group()
        return ""

    def _write_group(self) -> None:
        rows, self._rows, self._bytes = self._rows, [], 0
        if rows:
            columns = dict(zip(self._names, zip(*rows, strict=True), strict=True))
            with named(self._path):
                self._writer.write_table(self._table.from_pydict(columns, schema=self._schema))

    def __enter__(self) -> Self:
        """Give the output itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Write the last group and the index without which the file cannot be read."""
        try:
            if not isinstance(error, OSError):
                self._write_group()
                with named(self._path):
                    self._writer.close()
        finally:
            self._file.close()


def _sendable(text: str) -> str:
    """The text with half characters, which UTF-8 has not, spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()
