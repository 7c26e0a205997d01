"""Rows of Parquet files, with pyarrow, which the extra `parquet` installs."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from rejection_client._rows import UNSENDABLE, InputError, Row, record_row

ROWS_AT_ONCE = 1024


def parquet_rows(path: str, field: str) -> Iterator[Row]:
    """The rows of a file; raises InputError, OSError."""
    with _opened(path) as file:
        if field.split(".", 1)[0] not in (names := file.schema_arrow.names) and field not in names:
            raise InputError(f"{path} has no column '{field}'; it has {', '.join(names)}")
        size, total = os.path.getsize(path), max(1, file.metadata.num_rows)  # noqa: PTH202  # a name, as all others are
        number = 0
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            for record in batch.to_pylist():
                number += 1
                row = Row(UNSENDABLE, f"{path} row {number}", None, size * number // total, number, path)
                yield record_row(record, field, row)


def parquet_columns(path: str) -> Sequence[str]:
    """The names of a file's columns; raises InputError, OSError."""
    with _opened(path) as file:
        return list(file.schema_arrow.names)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    if path == "-":
        raise InputError(
            "Parquet cannot be read from standard input, since its index is at the end; name it with --file"
        )
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"reading Parquet needs pyarrow ({error}): pip install 'rejection-client[parquet]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())}") from error
