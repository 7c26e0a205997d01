"""The subcommand `classify`: rows in, a result for each out, in order."""

import argparse
import contextlib
import logging
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Literal, TypeVar

from rejection_client._commands import (
    EXIT_FAILED,
    EXIT_REJECTION,
    check_options,
    client,
    fail,
    set_output,
)
from rejection_client._destination import (
    can_resume,
    check_destination,
    check_several,
    destination,
    destination_of_several,
)
from rejection_client._lines import check_columns, file_rows, form_of
from rejection_client._output import Output
from rejection_client._prediction import Result
from rejection_client._progress import Progress
from rejection_client._rows import UNSENDABLE, Form, InputError, Row, UsageError, argument_rows
from rejection_client._sources import input_bytes
from rejection_client.errors import ROW, DeadlineExceededError, InvalidInputError, OverloadedError, ServerError

T = TypeVar("T")

OF_ONE_ROW = (InvalidInputError, OverloadedError, DeadlineExceededError, ServerError)
"""Errors after which the other rows are still worth asking for."""


def classify(options: argparse.Namespace) -> int:
    """Classify each text of the input; a row that fails is a row with its error."""
    check_destination(options)
    if options.several:
        check_several(options)
    set_output(options.output)
    rows = _rows(options)
    total = len(options.texts) or input_bytes(options.files)
    with contextlib.ExitStack() as open_:
        asked = open_.enter_context(client(options))
        progress = open_.enter_context(Progress(_progress_form(options), total))
        options.models = asked.models() if options.all_models else options.models
        models = {name: asked.model_info(name) for name in options.models}
        open_.enter_context(_server_log(progress))
        check_options(options, *models.values())
        run = _Run(options, progress)
        waiting: deque[Row] = deque()
        if options.several:
            outputs, write = open_.enter_context(destination_of_several(options, models))
            texts = _texts(rows, waiting)
            for results in asked.stream_all(texts, options.models, max_length=options.max_length):
                write(run.take(waiting.popleft(), results, outputs, results))
            write(outputs.end())
        else:
            (name,) = models
            output, write = open_.enter_context(destination(options, models[name], rows))
            for result in asked.stream(_texts(rows, waiting), max_length=options.max_length):
                write(run.take(waiting.popleft(), {name: result}, output, result.prediction))
            write(output.end())
    if run.failures:
        return EXIT_FAILED
    return EXIT_REJECTION if options.exit_code and run.rejections else 0


class _Run:
    """What came of the rows so far."""

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        self._options = options
        self._progress = progress
        self.failures = 0
        self.rejections = 0

    def take(self, row: Row, results: Mapping[str, Result], output: Output[T], found: T | None) -> str:
        """The lines of a row, with what was `found`. Raises InputError where no further row would fare better."""
        errors = [error for name, result in results.items() if (error := self._error(row, name, result)) is not None]
        if errors:
            self._progress.clear()
            self.failures += 1
            if row.problem is None and not any(_is_of_one_row(result) for result in results.values()):
                raise InputError(self._stopped(next(iter(results.values()))))
        for error in dict.fromkeys(errors):
            fail(error)
        predictions = [result.prediction for result in results.values() if result.prediction is not None]
        self.rejections += any(
            prediction.positive_label is not None and prediction.is_rejection(self._options.threshold)
            for prediction in predictions
        )
        self._progress.add(row.bytes_read)
        return output.failed(row, errors[0]) if found is None or row.problem is not None else output.found(row, found)

    def _error(self, row: Row, name: str, result: Result) -> str | None:
        error = _error(row, result)
        is_the_models = error is not None and row.problem is None and self._options.several
        return f"{error} (of '{name}')" if is_the_models else error

    def _stopped(self, result: Result) -> str:
        done = self._progress.done
        more = "; --resume goes on after them" if can_resume(self._options) else ""
        return f"{result.error}{f' ({done:,} texts were classified before{more})' if done else ''}"


def _is_of_one_row(result: Result) -> bool:
    """Whether the other rows are still worth asking that model for."""
    return result.error is None or isinstance(result.error, OF_ONE_ROW)


def _error(row: Row, result: Result) -> str | None:
    """What to say of a row that failed, with its place, on one line; None of one that did not."""
    if row.problem is not None:
        return f"{row.place} {row.problem}"
    if result.error is None:
        return None
    told = " ".join(str(result.error).split())
    names_row = isinstance(result.error, InvalidInputError) and result.error.row is not None
    return ROW.sub(row.place, told, count=1) if names_row else f"{row.place}: {told}"


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    """The rows of the input. Raises UsageError for options that do not go together, InputError for such files."""
    if options.delimiter is not None and options.csv is None and options.field is None:
        raise UsageError("--delimiter says what divides the columns of CSV: give --csv COLUMN too")
    kinds = ("jsonl", "csv", "parquet", "field")
    kind, field = next(
        ((kind, value) for kind in kinds if (value := getattr(options, kind)) is not None), ("lines", None)
    )
    if options.texts:
        if options.files:
            raise UsageError("texts are given both as arguments and in files; give one or the other")
        if field is not None:
            raise UsageError(
                f"--{kind} says how files are read, and '{options.texts[0]}' is a text: name files with --file"
            )
        return argument_rows(options.texts)
    paths = options.files or ["-"]
    if field is None:
        files = [(path, Form()) for path in paths]
    else:
        files = [(path, form_of(path, None if kind == "field" else kind, field, options.delimiter)) for path in paths]
    if options.output == "csv":
        check_columns(files)
    if "-" in paths and sys.stdin is not None and sys.stdin.isatty():
        sys.stderr.write("rejection: reading texts from the terminal, one a line; Ctrl-D ends\n")
        sys.stderr.flush()
    rows = file_rows(files)
    return _of_one_header(rows) if options.output == "csv" else rows


def _of_one_header(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows; a record with a field that the first has not is a problem, for CSV has no place for it."""
    header: set[str] | None = None
    for row in rows:
        further: set[str] = set()
        if row.record is not None:
            header = set(row.record) if header is None else header
            further = set(row.record) - header
        if further and row.problem is None:
            named = ", ".join(f"'{name}'" for name in row.record or () if name in further)
            problem = f"has {named}, which the first record has not; write --output jsonl, which keeps every field"
            yield row._replace(text=UNSENDABLE, problem=problem)
        else:
            yield row


def _texts(rows: Iterator[Row], waiting: deque[Row]) -> Iterator[str]:
    """The texts of the rows, which wait for their results meanwhile."""
    for row in rows:
        waiting.append(row)
        yield row.text


def _progress_form(options: argparse.Namespace) -> Literal["bar", "lines"] | None:
    """A bar on a terminal, unless the results go there, too; lines elsewhere."""
    if not sys.stderr.isatty():
        return "lines"
    return None if sys.stdout.isatty() and options.output_file is None else "bar"


@contextlib.contextmanager
def _server_log(progress: Progress) -> Iterator[None]:
    """Tell meanwhile of servers that go and come back: a run that waits for one seems to hang otherwise."""

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            progress.clear()
            fail(record.getMessage())

    log, teller = logging.getLogger("rejection_client"), Teller(logging.INFO)
    before = log.level
    log.addHandler(teller)
    log.setLevel(min(logging.INFO, log.getEffectiveLevel()))
    try:
        yield
    finally:
        log.removeHandler(teller)
        log.setLevel(before)
