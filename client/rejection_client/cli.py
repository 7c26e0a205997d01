"""The command `rejection`: its command line, its exit codes, and what ends it early.

What each subcommand does is in `_commands`. Results are written and flushed one by one, so that a reader, an interrupt
or a server that dies midway leaves complete lines. Exit codes are in the help text.
"""

import argparse
import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from rejection_client import _classify, _commands
from rejection_client._config import DEFAULT_URL, ClientConfig, Tls, read_token
from rejection_client._rows import InputError, UsageError
from rejection_client._version import __version__
from rejection_client.errors import RejectionError

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = 1, 2, 130, 141

DESCRIPTION = "Ask a Triton server whether texts are rejections: a language model declining to do what it was asked."
EXIT_CODES = """\
exit codes:
  0    done
  1    an error, told on standard error; a row that fails is a row with its error, and the rest goes on
  2    the command line is wrong
  3    with --exit-code: something is a rejection
  130  interrupted (Ctrl-C)
  141  the reader of the output went away
"""
HELP = f"""\
examples:
  rejection classify "Sorry, but I can't assist with that."
  rejection classify < answers.txt                              one text a line
  rejection document --unit sentences answer.txt
  rejection health --wait 60 && rejection info
  rejection watch
  REJECTION_URL=gpu-box:8001 rejection classify "I cannot."     another server

{EXIT_CODES}"""
CLASSIFY_HELP = f"""\
examples:
  rejection classify "Sure, here it is." "I won't do that."      two texts
  rejection classify < answers.txt                              one text a line
  tail -f answers.log | rejection classify --output jsonl       results as lines arrive
  rejection classify --field answer --output csv --file a.jsonl --file b.jsonl.gz > scored.csv
  rejection classify --jsonl choices.0.message.content --output jsonl < log.jsonl
  rejection classify --csv response --file log.csv --output jsonl | jq -c 'select(.is_rejection) | .record.id'
  rejection classify --csv response --delimiter ';' --output csv < log.csv
  rejection classify --csv response --file log.csv.gz --output-file scored.csv.gz --resume
  rejection classify --model rejection --model toxicity --output csv --field answer --file log.jsonl > scored.csv
  rejection classify --all-models "I won't do that."             every classifier that the server has ready
  rejection classify --exit-code --threshold 0.9 "$ANSWER" || echo "refused, or in trouble"

input:
  UTF-8, plain or gzip. A row that has no text, or that the server refuses, is a row of the output with its error.

output (every row in the order of the input):
  table   best label, probability of each label (of the rejection alone where the other is its opposite; SCORE for
          models that give raw scores), tokens (with * where truncated), the text shortened
  jsonl   one object a line: text, file, line, label, score (that of the rejection) and is_rejection where the model
          has such a label, labels (those above the threshold) for multi-label models, scores, token_count, truncated,
          error (in place of all these) and record, the object, line or row that the text came in
  csv     text, or the columns that came in, then file, line, label, labels, score, is_rejection, a column for each
          label, token_count, truncated, error
  parquet the columns of csv, always with text, and record (JSON) for the columns that came in; only to --output-file

several models (each has its own labels; one that fails has an error, and the others go on):
  table   for each model its best label, or those above the threshold, and the highest score
  jsonl   what a single model has, by name under models
  csv     the columns of each model with its name in front, as in toxicity.label

{EXIT_CODES}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(argv)
    if sys.stdout is None or sys.stderr is None:
        return EXIT_ERROR  # Python's sign for a closed descriptor: nowhere to write
    if "url" in options:
        try:
            options.config = _config(options)
            _commands.client(options).close()  # a wrong address or certificate is a wrong command line
            _warn_of_readable_token(options)
        except ValueError as error:
            return _wrong(options, error)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_PIPE_CLOSED
    except UsageError as error:
        return _wrong(options, error)
    except (RejectionError, InputError) as error:
        return _commands.fail(str(error))
    except OSError as error:  # an unreadable input, a full disk
        _drop_output()
        return _commands.fail(f"{error.strerror or error} ({error.filename or 'standard input or output'})")


def _wrong(options: argparse.Namespace, error: Exception) -> NoReturn:
    parser: _Parser = options.parser
    parser.error(str(error))


def _config(options: argparse.Namespace) -> ClientConfig:
    tls = {"ca_path": options.ca, "certificate_path": options.cert, "private_key_path": options.key}
    tls["server_name"] = options.server_name
    options.all_models = getattr(options, "all_models", False)
    options.is_named = bool(options.models)
    options.models = list(dict.fromkeys(options.models or ["rejection"]))
    options.several = options.all_models or len(options.models) > 1
    return ClientConfig(
        model=options.models[0],
        positive_label=getattr(options, "positive_label", None),
        timeout_s=options.timeout,
        outage_s=options.wait if options.command == "classify" else None,
        max_concurrent_requests=options.concurrency,
        tls=Tls(**tls) if options.tls or any(tls.values()) else None,
        token=read_token(options.token_file) if options.token_file else os.environ.get("REJECTION_TOKEN") or None,
        compression=options.compression,
    )


def _warn_of_readable_token(options: argparse.Namespace) -> None:
    from rejection_client.channels import is_loopback, parse_url

    if options.config.token is None or options.config.tls is not None:
        return
    with contextlib.suppress(ValueError):  # a name that cannot be looked up is told of by the call
        if not all(is_loopback(target) for target in parse_url(options.url)):
            _commands.fail(f"the token for {options.url} travels unencrypted and can be read on the way; use --tls")


def _drop_output() -> None:
    """Let Python's last flush at exit go nowhere: it would fail again, with a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- the command line ------------------------------------------------------------------------------------------------


class _Once(argparse.Action):
    """Keeps a value, and refuses a second one: taking the last would leave out what was meant by the first."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        if getattr(namespace, self.dest) is not self.default:
            parser.error(f"{option} is given twice, and takes one")
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """Has `--version`, takes no abbreviations, and says what is wrong in one sentence, without the usage."""

    def __init__(self, *, epilog: str = EXIT_CODES, **settings: object) -> None:
        plain = argparse.RawDescriptionHelpFormatter
        super().__init__(epilog=epilog, formatter_class=plain, allow_abbrev=False, **settings)  # type: ignore[arg-type]
        self.add_argument("--version", action="version", version=f"rejection-client {__version__}")

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rejection", description=DESCRIPTION, epilog=HELP)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_classify(
        commands.add_parser(
            "classify",
            help="classify texts: arguments, or lines of files or of standard input",
            description="Classify texts given as arguments or, without any, each line of the files or standard input.",
            epilog=CLASSIFY_HELP,
        )
    )
    _add_document(
        commands.add_parser(
            "document",
            help="find the part of a long text that is most likely a rejection",
            description="Classify one long text in overlapping windows or in sentences, and show the highest part with "
            "its characters.",
        )
    )
    summary = "tell whether each server takes requests"
    health = commands.add_parser("health", help=summary, description=f"{summary.capitalize()}.")
    health.set_defaults(run=_commands.health)
    health.add_argument("--wait", type=_seconds, metavar="SECONDS", help="wait so long for them to be ready")
    _add_connection(health)

    summary = "show what the server tells of its model, or of each that it has"
    info = commands.add_parser("info", help=summary, description=f"{summary.capitalize()}.")
    info.set_defaults(run=_commands.info)
    _add_output(info, "table", "jsonl")
    _add_connection(info, default="all that are ready, else rejection")

    watch = commands.add_parser(
        "watch",
        help="show rates, latencies, queues and batch sizes, live",
        description="Show what each model of a server does, from its Prometheus metrics, until Ctrl-C.",
    )
    watch.set_defaults(run=_commands.watch)
    watch.add_argument(
        "--metrics",
        action=_Once,
        default=os.environ.get("REJECTION_METRICS") or "http://127.0.0.1:8002/metrics",
        metavar="URL",
        help="the server's metrics (REJECTION_METRICS, else http://127.0.0.1:8002/metrics)",
    )
    watch.add_argument("--interval", type=_seconds, default=2.0, metavar="SECONDS", help="time between readings (2)")
    watch.add_argument("--count", type=_count, metavar="N", help="end after so many tables")
    for command in commands.choices.values():
        command.set_defaults(parser=command)
    return parser


def _add_classify(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_classify.classify)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text; put -- before texts that begin with a dash")
    parser.add_argument(
        "--file", dest="files", action="append", default=[], metavar="PATH", help="read this file; may be repeated"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--field",
        action=_Once,
        metavar="NAME",
        help="the text is in this field or column; the files' names tell CSV (.csv, .tsv), Parquet (.parquet) and JSON "
        "lines (all others)",
    )
    form.add_argument(
        "--jsonl", action=_Once, metavar="FIELD", help="the input is JSON lines; the text is in this field, or at a.b"
    )
    form.add_argument(
        "--csv", action=_Once, metavar="COLUMN", help="the input is CSV with a header; the text is in this column"
    )
    form.add_argument(
        "--parquet", action=_Once, metavar="COLUMN", help="the files are Parquet; the text is in this column"
    )
    parser.add_argument(
        "--delimiter",
        type=_delimiter,
        metavar="CHARACTER",
        help="between columns of CSV: 'tab', ';' (a comma; .tsv: tab)",
    )
    parser.add_argument(
        "--output",
        choices=("table", "jsonl", "csv", "parquet"),
        help="form of the results (what the name of --output-file tells, else table)",
    )
    parser.add_argument(
        "--output-file",
        action=_Once,
        metavar="PATH",
        help="write the results to this new file: .jsonl, .csv, .jsonl.gz, .csv.gz or .parquet",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on where an earlier run of the same command was stopped, with the rows that the --output-file lacks",
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=120.0,
        metavar="SECONDS",
        help="how long to wait for a server that was there and is gone, as when it restarts (120)",
    )
    _add_verdict(parser)
    _add_connection(parser, several=True)


def _add_document(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_commands.document)
    parser.add_argument("path", nargs="?", default="-", metavar="FILE", help="the text (standard input)")
    parser.add_argument("--unit", choices=("windows", "sentences"), default="windows", help="the parts (windows)")
    parser.add_argument(
        "--overlap", type=_overlap, default=0.25, metavar="SHARE", help="part of a window also in the next (0.25)"
    )
    parser.add_argument("--all", action="store_true", help="show every part")
    _add_output(parser, "table", "jsonl")
    _add_verdict(parser)
    _add_connection(parser)


def _add_output(parser: argparse.ArgumentParser, *choices: str) -> None:
    parser.add_argument("--output", choices=choices, default=choices[0], help=f"form of the results ({choices[0]})")


def _add_verdict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        type=_threshold,
        default=0.5,
        metavar="P",
        help="a rejection is what scores above this, and so is a label of a multi-label model (0.5)",
    )
    parser.add_argument(
        "--positive-label", metavar="NAME", help="the label that means a rejection (what the model itself names)"
    )
    parser.add_argument("--exit-code", action="store_true", help="exit with 3 if anything is a rejection")
    parser.add_argument(
        "--max-length",
        type=_count,
        metavar="TOKENS",
        help="truncate each text, or bound each window, to so many tokens (the model's maximum)",
    )


def _add_connection(parser: argparse.ArgumentParser, *, several: bool = False, default: str = "rejection") -> None:
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--url",
        action=_Once,
        default=os.environ.get("REJECTION_URL") or DEFAULT_URL,
        help=f"the server's gRPC address, HOST:PORT; several with commas between (REJECTION_URL, else {DEFAULT_URL})",
    )
    more = "; may be repeated, and texts go to each" if several else ""
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--model",
        dest="models",
        action="append" if several else _Once,
        type=str if several else lambda name: [name],
        metavar="NAME",
        help=f"the model's name on the server ({default}){more}",
    )
    if several:
        choice.add_argument(
            "--all-models", action="store_true", help="texts go to each model that the server has ready"
        )
    group.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="SECONDS", help="deadline of each request (10)"
    )
    group.add_argument("--concurrency", type=_count, default=4, metavar="N", help="requests under way at once (4)")
    group.add_argument(
        "--compression", choices=("none", "deflate", "gzip"), default="none", help="of what is sent (none)"
    )
    group.add_argument("--tls", action="store_true", help="encrypt; the options below imply it")
    group.add_argument("--ca", metavar="PEM", help="certificates that the server's must descend from")
    group.add_argument("--cert", metavar="PEM", help="the client's own certificate, for mutual TLS")
    group.add_argument("--key", metavar="PEM", help="its key")
    group.add_argument("--server-name", metavar="NAME", help="name in the server's certificate (that of the address)")
    group.add_argument(
        "--token-file",
        default=os.environ.get("REJECTION_TOKEN_FILE"),
        metavar="PATH",
        help="send the token on its first line (REJECTION_TOKEN_FILE, else the token REJECTION_TOKEN)",
    )


def _number(wanted: str, fits: Callable[[float], bool], value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and fits(number)):
        raise argparse.ArgumentTypeError(f"'{value}' is not {wanted}")
    return number


_seconds = functools.partial(_number, "a number of seconds above 0", lambda seconds: seconds > 0)
_threshold = functools.partial(_number, "a number", lambda _: True)
_overlap = functools.partial(_number, "a share from 0 to 0.9", lambda share: 0 <= share <= 0.9)


def _delimiter(value: str) -> str:
    character = {"tab": "\t", "\\t": "\t"}.get(value, value)
    if len(character) != 1 or character in '"\r\n':
        raise argparse.ArgumentTypeError(f"'{value}' is not one character, such as ';', or tab")
    return character


def _count(value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 2**31:
        raise argparse.ArgumentTypeError(f"'{value}' is not a number from 1 up")
    return int(value)
