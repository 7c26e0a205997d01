"""Where `classify` writes, and in which form: standard output, or a file that an interrupted run goes on with."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from rejection_client._commands import fail, table_width, write
from rejection_client._files import ResultFile
from rejection_client._output import Csv, JsonLines, Output, Style
from rejection_client._parquet_output import ParquetOutput
from rejection_client._prediction import ModelInfo
from rejection_client._resume import skip_written
from rejection_client._rows import InputError, Row
from rejection_client._table import Table

FORMS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
    ".csv.gz": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""Of files whose names end like that."""


def check_destination(options: argparse.Namespace) -> None:
    """Settle `options.output`; raises InputError for options that do not go together, and for a file that exists."""
    path, form = options.output_file, options.output
    if path is None:
        if options.resume:
            raise InputError("--resume goes on with a file of results: name it with --output-file")
        if form == "parquet":
            raise InputError("Parquet is written to a file only: name it with --output-file")
        options.output = form or "table"
        return
    told = next((told for ending, told in FORMS.items() if path.lower().endswith(ending)), None)
    options.output = form or told
    if options.output is None:
        raise InputError(f"the name {path} does not tell its form; give --output jsonl, or a name in .jsonl or .csv")
    if options.output == "table" or (told not in (None, options.output) and "parquet" in (told, options.output)):
        raise InputError(f"{path} cannot be written as {options.output}; leave --output out, or name another file")
    if not Path(path).exists():
        return
    if not options.resume:
        raise InputError(f"{path} exists; go on with it with --resume, or name another --output-file")
    if options.output == "parquet":
        raise InputError(
            f"{path} cannot be gone on with, since the index of a Parquet file is written at its end; delete it, and "
            "write .jsonl.gz or .csv.gz if a run may be stopped"
        )


def can_resume(options: argparse.Namespace) -> bool:
    """Whether a run that stops may be gone on with."""
    return options.output_file is not None and options.output != "parquet"


@contextlib.contextmanager
def destination(
    options: argparse.Namespace, model: ModelInfo, rows: Iterator[Row]
) -> Iterator[tuple[Output, Callable[[str], None]]]:
    """What makes the lines of results, and what writes them.

    With `--resume`, takes the rows from `rows` that the file has. Raises InputError, OSError.
    """
    style = Style(model, options.threshold, table_width())
    has_files = any(path != "-" for path in options.files)
    places = [] if options.texts else ["file", "line"] if has_files else ["line"]
    path = options.output_file
    if options.output == "parquet":
        with ParquetOutput(path, style, places) as parquet:
            yield parquet, _nowhere
        return
    output = Table(style) if options.output == "table" else None
    lines = Csv(style, places) if options.output == "csv" else JsonLines(style)
    if path is None:
        yield output or lines, write
        return
    end = None
    if Path(path).exists():
        count, end = skip_written(path, lines, rows, model)
        if count:
            fail(f"{path} has {count:,} rows; going on after them")
    with ResultFile(path, end) as file:
        yield lines, file.write


def _nowhere(_: str) -> None:
    """For an output that writes by itself."""
