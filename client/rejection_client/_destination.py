"""Where `classify` writes, and in which form: standard output, or a file that an interrupted run goes on with."""

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rejection_client._commands import fail, table_width, write
from rejection_client._files import ResultFile
from rejection_client._output import Csv, JsonLines, Output, Style, fields_of, found_columns
from rejection_client._parquet_output import ParquetOutput
from rejection_client._prediction import ModelInfo, Prediction
from rejection_client._resume import skip_written
from rejection_client._rows import InputError, Row, UsageError
from rejection_client._several_output import Results, SeveralTable, columns_of_several, fields_of_several
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
    """Settle `options.output`.

    Raises UsageError for options that do not go together, InputError for a file that exists.
    """
    path, form = options.output_file, options.output
    if path is None:
        if options.resume:
            raise UsageError("--resume goes on with a file of results: name it with --output-file")
        if form == "parquet":
            raise UsageError("Parquet is written to a file only: name it with --output-file")
        options.output = form or "table"
        return
    told = next((told for ending, told in FORMS.items() if path.lower().endswith(ending)), None)
    options.output = form or told
    if options.output is None:
        raise UsageError(f"the name {path} does not tell its form; give --output jsonl, or a name in .jsonl or .csv")
    if options.output == "table" or (told not in (None, options.output) and "parquet" in (told, options.output)):
        raise UsageError(f"{path} cannot be written as {options.output}; leave --output out, or name another file")
    if not Path(path).exists():
        return
    if not options.resume:
        way = "" if options.several or options.output == "parquet" else "go on with it with --resume, or "
        raise InputError(f"{path} exists; {way}name another --output-file")
    if options.output == "parquet":
        raise InputError(
            f"{path} cannot be gone on with, since the index of a Parquet file is written at its end; delete it, and "
            "write .jsonl.gz or .csv.gz if a run may be stopped"
        )


def check_several(options: argparse.Namespace) -> None:
    """Raises UsageError for what is there for a single model only."""
    if options.resume or options.output == "parquet":
        named = "--resume goes" if options.resume else "Parquet goes"
        asked = "all are asked" if options.all_models else f"{len(options.models)} are named"
        raise UsageError(f"{named} with one --model: {asked}")
    if options.positive_label is not None:
        raise UsageError("--positive-label goes with one --model: each of several says itself which label it is")


def can_resume(options: argparse.Namespace) -> bool:
    """Whether a run that stops may be gone on with."""
    return options.output_file is not None and options.output != "parquet" and not options.several


@contextlib.contextmanager
def destination(
    options: argparse.Namespace, model: ModelInfo, rows: Iterator[Row]
) -> Iterator[tuple[Output[Prediction], Callable[[str], None]]]:
    """What makes the lines of results, and what writes them.

    With `--resume`, takes the rows from `rows` that the file has. Raises InputError, OSError.
    """
    style = Style(model, options.threshold, table_width())
    places = _places(options)
    path = options.output_file
    if options.output == "parquet":
        with ParquetOutput(path, style, places) as parquet:
            yield parquet, _nowhere
        return
    output = Table(style) if options.output == "table" else None
    fields = functools.partial(fields_of, style=style)
    lines = Csv(found_columns(style), places) if options.output == "csv" else JsonLines(fields)
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


@contextlib.contextmanager
def destination_of_several(
    options: argparse.Namespace, models: Mapping[str, ModelInfo]
) -> Iterator[tuple[Output[Results], Callable[[str], None]]]:
    """The same for several models. Raises OSError."""
    styles = {name: Style(model, options.threshold) for name, model in models.items()}
    output: Output[Results] = JsonLines(functools.partial(fields_of_several, styles))
    if options.output == "table":
        output = SeveralTable(styles, table_width())
    elif options.output == "csv":
        output = Csv(columns_of_several(styles), _places(options))
    if options.output_file is None:
        yield output, write
        return
    with ResultFile(options.output_file, None) as file:
        yield output, file.write


def _places(options: argparse.Namespace) -> list[str]:
    """Columns that say where a row is from."""
    has_files = any(path != "-" for path in options.files)
    return [] if options.texts else ["file", "line"] if has_files else ["line"]


def _nowhere(_: str) -> None:
    """For an output that writes by itself."""
