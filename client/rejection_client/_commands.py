"""What the subcommands of `rejection` do, `classify` aside, and what that shares with them."""

import argparse
import io
import shutil
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict

from rejection_client import _metrics
from rejection_client._client import RejectionClient
from rejection_client._output import Style, document_json, to_json
from rejection_client._prediction import ModelInfo, needed
from rejection_client._rows import InputError, UsageError
from rejection_client._sources import read_document
from rejection_client._table import document_table
from rejection_client.errors import AccessDeniedError, RejectionError, UnexpectedAnswerError

PIPED_WIDTH = 100
"""Columns of the table where the output is not a terminal."""

EXIT_FAILED, EXIT_REJECTION = 1, 3
METRICS_TIMEOUT_S = 5.0


def client(options: argparse.Namespace) -> RejectionClient:
    """A client as the command line wants it; raises ValueError for an address or a certificate that cannot be."""
    return RejectionClient(options.url, options.config)


def fail(sentence: str) -> int:
    """Tell what is wrong, on one line, however many a server's words have; returns the exit code for it."""
    sys.stderr.write(f"rejection: {' '.join(sentence.split())}\n")
    sys.stderr.flush()
    return EXIT_FAILED


def check_options(options: argparse.Namespace, *models: ModelInfo) -> None:
    """Compare the command line with the models, and say if `--max-length` is more than one reads.

    Raises UsageError for a threshold that no probability reaches, NoPositiveLabelError for `--exit-code` where no model
    has such a label.
    """
    if options.exit_code and all(model.positive_label is None for model in models):
        needed(None, models[0].labels)
    for model in models:
        _check_numbers(options, model)


def _check_numbers(options: argparse.Namespace, model: ModelInfo) -> None:
    if model.has_probabilities and not 0 <= options.threshold <= 1:
        raise UsageError(f"--threshold {options.threshold:g} is no probability; give a number from 0 to 1")
    if options.max_length is not None and model.max_length is not None and options.max_length > model.max_length:
        fail(f"--max-length {options.max_length} is more than '{model.name}' reads; {model.max_length} tokens it is")


def document(options: argparse.Namespace) -> int:
    """Classify one long text."""
    text = read_document(options.path)
    set_output(options.output)
    with client(options) as asked:
        model = asked.model_info()
        check_options(options, model)
        answer = asked.classify_document(
            text, options.unit, overlap=options.overlap, all_units=options.all, max_length=options.max_length
        )
    lines = document_json if options.output == "jsonl" else document_table
    write(lines(text, answer, Style(model, options.threshold, table_width())))
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
        write(f"{target.name} {verdict} requests for '{options.config.model}'\n")
    return 0 if ready else EXIT_FAILED


def info(options: argparse.Namespace) -> int:
    """Show what the server tells of the model, or, where none is named, of each that it has ready."""
    set_output(options.output)
    with client(options) as asked:
        names = options.models if options.is_named else _names(asked, options)
        models = [asdict(asked.model_info(name)) for name in names]
    shown = [to_json(fields) for fields in models] if options.output == "jsonl" else [*map(_described, models)]
    write(("" if options.output == "jsonl" else "\n").join(shown))
    return 0


def _names(asked: RejectionClient, options: argparse.Namespace) -> list[str]:
    """The models that are ready; the usual one where the server does not tell."""
    try:
        return asked.models()
    except (AccessDeniedError, UnexpectedAnswerError):
        return list(options.models)


def _described(fields: Mapping[str, object]) -> str:
    """A line for each thing that is told of a model."""
    lines = []
    for name, value in fields.items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        absent = "none named" if name == "positive_label" else "not told"
        lines.append(f"{name.replace('_', ' '):<18} {absent if shown is None else shown}\n")
    return "".join(lines)


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
        write(f"{home}{options.metrics}  {time.strftime('%H:%M:%S')}\n{table}")
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


def write(text: str) -> None:
    """Write to standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def table_width() -> int:
    """Columns that a table may have."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_WIDTH


def set_output(output: str) -> None:
    """Make standard output take every text in that form."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if output == "table":
            sys.stdout.reconfigure(errors="backslashreplace")
        else:  # JSON is UTF-8 whatever the locale, and so is CSV here
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
