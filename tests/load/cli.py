"""The command line of scripts/loadtest; nothing here needs more than Python itself."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from load import shapes
from load.goals import Goal
from load.goals import parse as parse_goal
from rejection_server import MODEL_REPOSITORY, __version__

PROG = "scripts/loadtest"
EXIT_NOT_MET, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
USERS = ("mix", "single", "batch", "stream", "long")
OUTPUT = MODEL_REPOSITORY.parent / "build" / "loadtest"

DESCRIPTION = """\
Find out what a server carries: the highest rate within a latency goal, what happens beyond it, whether it got
worse. Requests are sent at fixed times, whatever the server does (open loop); latency counts from the
time a request was meant to be sent at. Without --url the embedded server is started, loaded and stopped."""
EPILOG = """\
shapes:
  knee      the highest rate that keeps the latency goal: steps up, bisection, a longer confirming run
  overload  the knee (or --knee RATE), then 3 times that for --duration, then half of it: does the server stay sane?
  steady    --rate for --duration
  ramp      from a tenth of --rate up to it
  spike     --rate, 10 times that for 10 s, --rate
  soak      steady for an hour; memory has to stay flat

goals (--goal may be repeated; they decide the exit code):
  p99=200ms    latency of good answers, any percentile, ms or s; knee: what bounds the search (p99=200ms)
  failures=0.1%
  rate=50      good answers per second, at least; knee: the knee
  answers=500  good answers, at least

examples:
  scripts/loadtest                                            the knee of the bundled model on this machine, and beyond
  scripts/loadtest --shape steady --rate 50 --goal p99=100ms --goal failures=0.1%
  scripts/loadtest --url 127.0.0.1:8001 --shape spike --rate 20
  scripts/loadtest --repository build/guard --model toxicity  one of several classifiers
  scripts/loadtest --url gpu-box:8001 --yes --ca ca.pem --rate 500 --processes 4
  scripts/loadtest --shape knee --compare build/loadtest/EARLIER/result.json
  scripts/loadtest --capacity                                 what the generator itself can send

exit codes: 0 goals met (or none set), 1 not met or an error, 2 the command line is wrong, 130 interrupted; the report
of what was measured until then is written. docs/loadtest.md explains the figures."""


class Options(argparse.Namespace):
    """The command line, checked: an attribute for each option, such as `duration_s` of --duration."""

    def _goal(self, default: str, *, is_latency: bool) -> Goal:
        found = (goal for goal in self.goals if (goal.percent is not None if is_latency else goal.metric == "failures"))
        return next(found, parse_goal(default))

    @property
    def latency_goal(self) -> Goal:
        """What bounds the search for the knee."""
        return self._goal("p99=200ms", is_latency=True)

    @property
    def failures_goal(self) -> Goal:
        """Failures that a rate may have and still count as carried."""
        return self._goal("failures=0.1%", is_latency=False)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the command line; ends the process, with a sentence, where it is wrong."""
    parser = _parser()
    options = parser.parse_args(argv, namespace=Options())
    options.duration_s = options.duration_s or shapes.DEFAULT_DURATION_S[options.shape]
    if options.rate is None and options.shape not in shapes.SEARCHING and not options.capacity:
        parser.error(f"--shape {options.shape} needs --rate")
    if options.check_with and not options.check_with.is_file():
        parser.error(f"--check-with {options.check_with} is not a file")
    if options.check_with and (options.shape != "knee" or options.users != "single"):
        parser.error("--check-with compares knees of single texts: it goes with --shape knee --users single")
    if options.check_with and options.model != "rejection":
        parser.error("--check-with asks the model rejection: leave out --model")
    if options.processes + options.remote_workers < 1:
        parser.error("--processes 0 needs --remote-workers")
    try:
        shapes.profile(options.shape, options.rate or 1.0, options.duration_s)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parse(argv)
    # Only now: importing Locust patches the standard library.
    if options.capacity:
        from load import capacity

        return capacity.measure(options)
    from load import session

    return session.run(options)


def add_server_options(group: Any) -> None:
    """What the users of a load are told of the server: here and under Locust's own command."""
    group.set_defaults(token=os.environ.get("REJECTION_TOKEN") or None)
    add = group.add_argument
    add("--yes", action="store_true", help="load a server that is not on this machine")
    add("--model", default="rejection", help="the model's name on the server (rejection)")
    timeout = {"dest": "timeout_s", "type": _seconds, "default": 10.0, "metavar": "TIME"}
    add("--timeout", **timeout, help="deadline of a request (10s)")
    add("--compression", choices=("none", "deflate", "gzip"), default="none", help="of requests (none)")
    add("--tls", action="store_true", help="encrypt; the options below imply it")
    add("--ca", metavar="PEM", help="certificates that the server's must descend from")
    add("--cert", metavar="PEM", help="the client's own certificate, for mutual TLS")
    add("--key", metavar="PEM", help="its key")
    add("--server-name", metavar="NAME", help="name in the server's certificate (that of the address)")
    token = {"type": _path, "default": os.environ.get("REJECTION_TOKEN_FILE"), "metavar": "FILE"}
    named = "send the token on its first line (REJECTION_TOKEN_FILE, else the token REJECTION_TOKEN)"
    add("--token-file", **token, help=named)
    add("--channels", type=_count, default=4, metavar="N", help="connections of each process (4)")
    add("--texts", type=_path, metavar="FILE", help="draw from these: a text a line, or .jsonl with 'text'")
    unchanged = "of texts sent unchanged, which a response cache may know; the others are made distinct (0)"
    add("--repeat", type=_share, default=0.0, metavar="SHARE", help=unchanged)


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    add: Any = parser.add_argument_group("load").add_argument
    add("--shape", choices=shapes.SHAPES, default="overload", help="how the rate goes (overload)")
    add("--rate", type=_positive, metavar="N", help="requests per second; knee: the first rate tried (20)")
    lasting = "such as 90, 90s, 10m or 2h (60s, soak 1h, confirming 30s)"
    add("--duration", dest="duration_s", type=_seconds, metavar="TIME", help=lasting)
    kinds = "single texts of mixed lengths, batches of 16, streams of 8, long texts, or a mix 7:1:1:1 (single)"
    add("--users", choices=USERS, default="single", help=kinds)
    arrivals = {"dest": "spacing", "choices": ("poisson", "constant"), "default": "poisson"}
    add("--arrivals", **arrivals, help="independent callers, or evenly spaced (poisson)")
    add("--knee", type=_positive, metavar="N", help="overload: the knee, known already")
    add("--step", dest="step_s", type=_seconds, default=10.0, metavar="TIME", help="knee: length of a step (10s)")
    add("--seed", type=int, default=1, help="of arrivals and of the choice of users (1)")

    add = parser.add_argument_group("verdict").add_argument
    add("--goal", dest="goals", type=_goal, action="append", default=[], metavar="GOAL", help="see below")
    add("--compare", type=Path, metavar="FILE", help="an earlier result.json (the last of the same load in the folder)")
    add("--output", type=Path, default=OUTPUT, metavar="FOLDER", help="reports go to FOLDER/DATE (build/loadtest)")
    add("--check-with", type=Path, metavar="BINARY", help="find the knee again with this generator (docs/loadtest.md)")

    server = parser.add_argument_group("server")
    add = server.add_argument
    add("--url", metavar="HOST:PORT", help="its gRPC address; several with commas between")
    add("--metrics", metavar="URL", help="Triton's metrics (http://127.0.0.1:8002/metrics if local)")
    add("--repository", type=Path, default=MODEL_REPOSITORY, metavar="FOLDER", help="what the embedded server serves")
    add_server_options(server)

    add = parser.add_argument_group("generator").add_argument
    add("--processes", type=_count, default=1, metavar="N", help="processes that send (1)")
    add("--remote-workers", type=_count, default=0, metavar="N", help="wait for so many Locust workers from elsewhere")
    where = {"type": _bind, "default": "127.0.0.1:0", "metavar": "HOST:PORT"}
    add("--bind", **where, help="where they connect (loopback, any port)")
    add("--capacity", action="store_true", help="measure the generator itself, and nothing else")
    return parser


def _path(text: str) -> str:
    return str(Path(text).resolve())  # workers may be started elsewhere


def _goal(text: str) -> Goal:
    try:
        return parse_goal(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(text: str, is_right: Callable[[float], bool], words: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not is_right(number):
        raise argparse.ArgumentTypeError(f"'{text}' is not {words}")
    return number


def _positive(text: str) -> float:
    return _number(text, lambda number: 0 < number < math.inf, "a number above 0")


def _share(text: str) -> float:
    return _number(text, lambda number: 0 <= number <= 1, "a share from 0 to 1")


def _seconds(text: str) -> float:
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    try:
        return _positive(text[:-1] if unit else text) * (unit or 1)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time such as 90, 90s, 10m or 2h") from None


def _count(text: str) -> int:
    return int(_number(text, lambda number: 0 <= number <= 1000 and number == int(number), "a number from 0 to 1000"))


def _bind(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not HOST:PORT")
    return text


if __name__ == "__main__":
    sys.exit(main())
