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
from typing import NamedTuple

from rejection_client import _metrics
from rejection_client._client import RejectionClient
from rejection_client._config import ClientConfig
from rejection_client._lines import Form, InputError, Row, argument_rows, file_rows, input_bytes, read_document
from rejection_client._output import Format, Progress, Table, csv_lines, document_lines, json_lines, to_json
from rejection_client._status import ROW
from rejection_client.channels import parse_url
from rejection_client.errors import InvalidInputError, RejectionError

PIPED_WIDTH = 100
"""Columns of the table where the output is not a terminal."""

EXIT_FAILED, EXIT_REJECTION = 1, 3
METRICS_TIMEOUT_S = 5.0

Check = Callable[[float], bool]


class Connection(NamedTuple):
    """Where to, and how."""

    url: str
    config: ClientConfig

    def check(self) -> None:
        """Raise ValueError for an address or a certificate that cannot be."""
        self.open().close()

    def open(self) -> RejectionClient:
        """Make a client."""
        return RejectionClient(self.url, self.config)


def fail(sentence: str) -> int:
    """Tell what is wrong; returns the exit code for it."""
    sys.stderr.write(f"rejection: {sentence}\n")
    sys.stderr.flush()
    return EXIT_FAILED


def classify(options: argparse.Namespace, connection: Connection) -> int:
    """Classify each text of the input."""
    format_row = _formatter(options)
    shown = sys.stderr.isatty() and not sys.stdout.isatty()
    total = len(options.texts) or input_bytes(options.files)
    problems = 0
    rejections = 0
    with connection.open() as client, Progress(shown, total) as progress:

        def on_problem(sentence: str) -> None:
            nonlocal problems
            progress.clear()
            problems += 1
            fail(sentence)

        waiting: deque[Row] = deque()
        texts = _texts(_rows(options, on_problem), waiting)
        for result in client.stream(texts, max_length=options.max_length):
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
                sys.stdout.write(format_row(row, prediction))
                sys.stdout.flush()
                progress.add(1, row.bytes_read)
    if problems:
        return EXIT_FAILED
    return EXIT_REJECTION if options.exit_code and rejections else 0


def document(options: argparse.Namespace, connection: Connection) -> int:
    """Classify one long text."""
    text = read_document(options.path)
    _set_output(options.output)
    with connection.open() as client:
        answer = client.classify_document(
            text,
            options.unit,
            overlap=options.overlap,
            all_units=options.all,
            max_length=options.max_length,
        )
    sys.stdout.write(document_lines(text, answer, options.threshold, options.output, _width()))
    sys.stdout.flush()
    return EXIT_REJECTION if options.exit_code and answer.is_rejection(options.threshold) else 0


def health(options: argparse.Namespace, connection: Connection) -> int:
    """Tell of each address whether it takes requests."""
    ready = True
    for target in parse_url(connection.url):
        with RejectionClient(target.name, connection.config) as client:
            try:
                if options.wait is not None:
                    client.wait_until_ready(options.wait)
                is_ready = client.is_ready()
            except RejectionError as error:
                fail(str(error))
                is_ready = False
        ready = ready and is_ready
        verdict = "takes" if is_ready else "does not take"
        sys.stdout.write(f"{target.name} {verdict} requests for '{connection.config.model}'\n")
        sys.stdout.flush()
    return 0 if ready else EXIT_FAILED


def info(options: argparse.Namespace, connection: Connection) -> int:
    """Show what the server tells of its model."""
    _set_output(options.output)
    with connection.open() as client:
        fields = asdict(client.model_info())
    if options.output == "jsonl":
        sys.stdout.write(to_json(fields))
    else:
        for name, value in fields.items():
            shown = ", ".join(value) if isinstance(value, tuple) else value
            sys.stdout.write(f"{name.replace('_', ' '):<15} {'not told' if shown is None else shown}\n")
    sys.stdout.flush()
    return 0


def watch(options: argparse.Namespace, connection: None) -> int:
    """Show a table of the server's activity again and again."""
    before = _metrics.parse(_fetch(options.metrics))
    read_s = time.monotonic()
    tables = 0
    while options.count is None or tables < options.count:
        time.sleep(options.interval)
        after = _metrics.parse(_fetch(options.metrics))
        now_s = time.monotonic()
        home = "\x1b[H\x1b[J" if sys.stdout.isatty() else ""
        sys.stdout.write(
            f"{home}{options.metrics}  {time.strftime('%H:%M:%S')}\n"
            f"{_metrics.table(_metrics.activity(before, after, now_s - read_s))}"
        )
        sys.stdout.flush()
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
    if options.jsonl is not None:
        form = Form("jsonl", options.jsonl)
    elif options.csv is not None:
        form = Form("csv", options.csv)
    else:
        form = Form()
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
    if options.output == "jsonl":
        return json_lines(options.threshold)
    if options.output == "csv":
        return csv_lines(options.threshold)
    return Table(_width()).lines


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_WIDTH


def _set_output(output: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        if output == "table":
            sys.stdout.reconfigure(errors="backslashreplace")
        else:  # JSON is UTF-8 whatever the locale, and so is CSV here
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
