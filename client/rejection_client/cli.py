"""The command `rejection`: what a person types; everything it knows about texts it asks `RejectionClient`.

Results are written and flushed request by request, so that a reader, an interrupt or a server that dies midway
leaves complete lines. Exit codes are in the help text.
"""

import argparse
import io
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from rejection_client._client import RejectionClient
from rejection_client._lines import Row, batched, read_batches
from rejection_client._output import Progress, Table, json_line
from rejection_client._prediction import Prediction
from rejection_client._status import ROW
from rejection_client.errors import InvalidInputError, RejectionError

PIPED_WIDTH = 100
"""Columns of the table where the output is not a terminal."""

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = 1, 2, 130, 141

DESCRIPTION = "Ask a Triton server whether texts are rejections: a language model declining to do what it was asked."
HELP = """\
examples:
  rejection classify "Sorry, but I can't assist with that."
  rejection classify "Sure, here it is." "I won't do that."      two texts
  rejection classify < answers.txt                              one text a line
  tail -f answers.log | rejection classify --output jsonl       results as lines arrive
  rejection classify --output jsonl < answers.txt | jq -c 'select(.score > 0.9)'
  REJECTION_URL=gpu-box:8001 rejection classify "I cannot."     another server

output:
  table   label, probability of the last label (the rejection), tokens, the text shortened
  jsonl   one object a line: text, label, score (that same probability), probabilities, token_count

exit codes:
  0    every text was classified
  1    an error, told on standard error; a text the server refuses is told and left out, and the rest goes on
  2    the command line is wrong
  130  interrupted (Ctrl-C)
  141  the reader of the output went away
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if sys.stdout is None or sys.stderr is None:
        return EXIT_ERROR  # Python's sign for a closed descriptor: nowhere to write
    try:
        client = RejectionClient(options.url, timeout_s=options.timeout, model=options.model)
    except ValueError as error:
        parser.error(str(error))
    try:
        with client, Progress(sys.stderr.isatty() and not sys.stdout.isatty()) as progress:
            return _classify(options, client, progress)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_PIPE_CLOSED
    except OSError as error:  # an unreadable standard input, a full disk
        _drop_output()
        return _fail(f"{error.strerror or error} (standard input or output)")


def _classify(options: argparse.Namespace, client: RejectionClient, progress: Progress) -> int:
    format_row = _formatter(options.output)
    refused = 0
    for batch in _batches(options.texts):
        rows = list(batch)
        predictions: list[Prediction] = []
        while rows and not predictions:
            try:
                predictions = client.classify([row.text for row in rows], max_length=options.max_length)
            except RejectionError as error:
                progress.clear()
                row = error.row if isinstance(error, InvalidInputError) else None
                if row is None:
                    done = f" ({progress.done:,} texts were classified before)" if progress.done else ""
                    return _fail(f"{error}{done}")
                refused = _fail(ROW.sub(rows.pop(row).place, str(error), count=1))
        sys.stdout.write("".join(map(format_row, rows, predictions)))
        sys.stdout.flush()
        progress.add(len(rows))
    return refused


def _batches(texts: Sequence[str]) -> Iterator[tuple[Row, ...]]:
    if texts:
        return batched(Row(text, f"argument {number}") for number, text in enumerate(texts, 1))
    if sys.stdin is None:  # Python's sign for a closed descriptor
        return iter(())
    if sys.stdin.isatty():
        print("rejection: reading texts from the terminal, one a line; Ctrl-D ends", file=sys.stderr)
    return read_batches(sys.stdin.buffer)


def _formatter(output: str) -> Callable[[Row, Prediction], str]:
    if output == "jsonl":
        _set_output("utf-8", "strict")  # JSON is UTF-8 whatever the locale
        return json_line
    _set_output(None, "backslashreplace")
    return Table(shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_WIDTH).lines


def _set_output(encoding: str | None, errors: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors=errors)


def _fail(sentence: str) -> int:
    print(f"rejection: {sentence}", file=sys.stderr)
    return EXIT_ERROR


def _drop_output() -> None:
    """Let Python's last flush at exit go nowhere: it would fail again, with a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without repeating the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rejection",
        description=DESCRIPTION,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rejection-client {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    classify = commands.add_parser(
        "classify",
        help="classify texts given as arguments, or the lines of standard input",
        description="Classify texts given as arguments or, without any, each line of standard input.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    classify.add_argument("texts", nargs="*", metavar="TEXT", help="a text; put -- before texts that begin with a dash")
    classify.add_argument(
        "--url",
        default=os.environ.get("REJECTION_URL") or "127.0.0.1:8001",
        help="the server's gRPC address, HOST:PORT (REJECTION_URL, else 127.0.0.1:8001)",
    )
    classify.add_argument("--model", default="rejection", help="the model's name on the server (rejection)")
    classify.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="SECONDS", help="deadline of each request (10)"
    )
    classify.add_argument(
        "--max-length",
        type=_tokens,
        metavar="TOKENS",
        help="truncate each text to so many tokens (the model's maximum)",
    )
    classify.add_argument("--output", choices=("table", "jsonl"), default="table", help="form of the results (table)")
    return parser


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise argparse.ArgumentTypeError(f"'{value}' is not a number of seconds above 0")
    return seconds


def _tokens(value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 2**31:
        raise argparse.ArgumentTypeError(f"'{value}' is not a number of tokens from 1 up")
    return int(value)


def _version() -> str:
    try:
        return version("rejection-client")
    except PackageNotFoundError:
        return "(run from a checkout)"
