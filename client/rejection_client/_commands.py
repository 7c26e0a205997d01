"""What the subcommands of `rejection` do; all they know about texts they ask `RejectionClient`."""

import argparse
import io
import shutil
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict

from rejection_client import _metrics
from rejection_client._client import RejectionClient
from rejection_client._lines import Form, InputError, Row, argument_rows, file_rows, input_bytes, read_document
from rejection_client._output import Format, Progress, Table, csv_lines, document_lines, json_lines, to_json
from rejection_client.errors import ROW, InvalidInputError, RejectionError

PIPED_WIDTH = 100
"""Columns of the table where the output is not a terminal."""

EXIT_FAILED, EXIT_REJECTION = 1, 3
METRICS_TIMEOUT_S = 5.0


def client(options: argparse.Namespace) -> RejectionClient:
    """A client as the command line wants it; raises ValueError for an address or a certificate that cannot be."""
    return RejectionClient(options.url, options.config)


def fail(sentence: str) -> int:
    """Tell what is wrong; returns the exit code for it."""
    sys.stderr.write(f"rejection: {sentence}\n")
    sys.stderr.flush()
    return EXIT_FAILED


def classify(options: argparse.Namespace) -> int:
    """Classify each text of the input."""
    format_row = _formatter(options)
    shown = sys.stderr.isatty() and not sys.stdout.isatty()
    total = len(options.texts) or input_bytes(options.files)
    problems = 0
    rejections = 0
    with client(options) as asked, Progress(shown, total) as progress:

        def on_problem(sentence: str) -> None:
            nonlocal problems
            progress.clear()
            problems += 1
            fail(sentence)

        waiting: deque[Row] = deque()
        texts = _texts(_rows(options, on_problem), waiting)
        for result in asked.stream(texts, max_length=options.max_length):
            row = waiting.popleft()
            if isinstance(result.error, InvalidInputError):
                on_problem(ROW.sub(row.place, str(result.error), count=1))
            elif result.error is not None:
                progress.clear()
                done = f" ({progress.done:,} texts were classified before)" if progress.done else ""
                return fail(f"{result.error}{done}")
            else:
                prediction = result.unwrap()
                rejections += prediction.is_rejection(options.threshold)
                _write(format_row(row, prediction))
                progress.add(1, row.bytes_read)
    if problems:
        return EXIT_FAILED
    return EXIT_REJECTION if options.exit_code and rejections else 0


def document(options: argparse.Namespace) -> int:
    """Classify one long text."""
    text = read_document(options.path)
    _set_output(options.output)
    with client(options) as asked:
        answer = asked.classify_document(
            text, options.unit, overlap=options.overlap, all_units=options.all, max_length=options.max_length
        )
    _write(document_lines(text, answer, options.threshold, options.output, _width()))
    return EXIT_REJECTION if options.exit_code and answer.is_rejection(options.threshold) else 0


def health(options: argparse.Namespace) -> int:
    """Tell of each address whether it takes requests."""
    from rejection_client.channels import parse_url  # with gRPC, which `rejection --help` need not import

    ready = True
    for target in parse_url(options.url):
        with RejectionClient(target.name, options.config) as asked:
            try:
                if options.wait is not None:
                    asked.wait_until_ready(options.wait)
                is_ready = asked.is_ready()
            except RejectionError as error:
                fail(str(error))
                is_ready = False
        ready = ready and is_ready
        verdict = "takes" if is_ready else "does not take"
        _write(f"{target.name} {verdict} requests for '{options.config.model}'\n")
    return 0 if ready else EXIT_FAILED


def info(options: argparse.Namespace) -> int:
    """Show what the server tells of its model."""
    _set_output(options.output)
    with client(options) as asked:
        fields = asdict(asked.model_info())
    if options.output == "jsonl":
        _write(to_json(fields))
        return 0
    for name, value in fields.items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        _write(f"{name.replace('_', ' '):<15} {'not told' if shown is None else shown}\n")
    return 0


def watch(options: argparse.Namespace) -> int:
    """Show a table of the server's activity again and again."""
    before = _metrics.parse(_fetch(options.metrics))
    read_s = time.monotonic()
    tables = 0
    while options.count is None or tables < options.count:
        time.sleep(options.interval)
        after = _metrics.parse(_fetch(options.metrics))
        now_s = time.monotonic()
        home = "\x1b[H\x1b[J" if sys.stdout.isatty() else ""
        seconds = now_s - read_s
        table = _metrics.table(_metrics.activity(before, after, seconds), _metrics.refusals(before, after, seconds))
        _write(f"{home}{options.metrics}  {time.strftime('%H:%M:%S')}\n{table}")
        before, read_s = after, now_s
        tables += 1
    return 0


def _fetch(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise InputError(f"'{url}' is not the address of metrics; give http://HOST:PORT/metrics")
    try:
        with urllib.request.urlopen(url, timeout=METRICS_TIMEOUT_S) as answer:  # noqa: S310  # checked above
            return str(answer.read().decode())
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"cannot read {url}: {reason}; check that the server has its metrics on") from error


def _rows(options: argparse.Namespace, on_problem: Callable[[str], None]) -> Iterator[Row]:
    if options.texts:
        return argument_rows(options.texts)
    field = options.jsonl if options.csv is None else options.csv
    form = Form() if field is None else Form("jsonl" if options.csv is None else "csv", field)
    if not options.files and sys.stdin is not None and sys.stdin.isatty():
        sys.stderr.write("rejection: reading texts from the terminal, one a line; Ctrl-D ends\n")
        sys.stderr.flush()
    return file_rows(options.files, form, on_problem)


def _texts(rows: Iterator[Row], waiting: deque[Row]) -> Iterator[str]:
    """The texts of the rows, which wait for their results meanwhile."""
    for row in rows:
        waiting.append(row)
        yield row.text


def _formatter(options: argparse.Namespace) -> Format:
    _set_output(options.output)
    if options.output == "table":
        return Table(_width()).lines
    return (json_lines if options.output == "jsonl" else csv_lines)(options.threshold)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_WIDTH


def _set_output(output: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        if output == "table":
            sys.stdout.reconfigure(errors="backslashreplace")
        else:  # JSON is UTF-8 whatever the locale, and so is CSV here
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
