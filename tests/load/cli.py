"""The command line of scripts/loadtest; nothing here needs more than Python itself."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from load import shapes
from load.goals import Goal
from load.goals import parse as parse_goal

PROG = "scripts/loadtest"
EXIT_NOT_MET, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
USERS = ("mix", "single", "batch", "stream", "long")
OUTPUT = Path(__file__).parents[2] / "build" / "loadtest"
REPOSITORY = Path(__file__).parents[2] / "model_repository"

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
  scripts/loadtest --url gpu-box:8001 --yes --ca ca.pem --rate 500 --processes 4
  scripts/loadtest --shape knee --compare build/loadtest/EARLIER/result.json
  scripts/loadtest --capacity                                 what the generator itself can send

exit codes: 0 goals met (or none set), 1 not met or an error, 2 the command line is wrong, 130 interrupted; the report
of what was measured until then is written. docs/loadtest.md explains the figures."""


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    shape: str
    rate: float | None
    duration_s: float
    users: str
    texts: Path | None
    repeat: float
    spacing: str
    goals: tuple[Goal, ...]
    compare: Path | None
    output: Path
    knee: float | None
    step_s: float
    url: str | None
    metrics: str | None
    model: str
    timeout_s: float
    channels: int
    processes: int
    remote_workers: int
    bind: str
    seed: int
    tls: bool
    ca: str | None
    cert: str | None
    key: str | None
    server_name: str | None
    compression: str
    yes: bool
    repository: Path
    check_with: Path | None
    capacity: bool

    @property
    def latency_goal(self) -> Goal:
        """What bounds the search for the knee."""
        return next((goal for goal in self.goals if goal.percent is not None), parse_goal("p99=200ms"))

    @property
    def failures_goal(self) -> Goal:
        """Failures that a rate may have and still count as carried."""
        return next((goal for goal in self.goals if goal.metric == "failures"), parse_goal("failures=0.1%"))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the command line; ends the process, with a sentence, where it is wrong."""
    parser = _parser()
    given = parser.parse_args(argv)
    duration_s = given.duration or shapes.DEFAULT_DURATION_S[given.shape]
    if given.rate is None and given.shape not in shapes.SEARCHING and not given.capacity:
        parser.error(f"--shape {given.shape} needs --rate")
    if given.check_with and not given.check_with.is_file():
        parser.error(f"--check-with {given.check_with} is not a file")
    if given.check_with and (given.shape != "knee" or given.users != "single"):
        parser.error("--check-with compares knees of single texts: it goes with --shape knee --users single")
    if given.processes + given.remote_workers < 1:
        parser.error("--processes 0 needs --remote-workers")
    options = {name: value for name, value in vars(given).items() if name not in ("duration", "timeout", "step")}
    try:
        shapes.profile(given.shape, given.rate or 1.0, duration_s)
        parsed = tuple(parse_goal(goal) for goal in given.goals)
    except ValueError as error:
        parser.error(str(error))
    options["goals"] = parsed
    return Options(**options, duration_s=duration_s, timeout_s=given.timeout, step_s=given.step)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parse(argv)
    # Only now: importing Locust patches the standard library.
    if options.capacity:
        from load import capacity

        return capacity.measure(options)
    from load import session

    return session.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROG,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    load = parser.add_argument_group("load")
    load.add_argument("--shape", choices=shapes.SHAPES, default="overload", help="how the rate goes (overload)")
    load.add_argument(
        "--rate", type=_positive, metavar="N", help="requests per second; knee: the first rate tried (20)"
    )
    load.add_argument(
        "--duration", type=_seconds, metavar="TIME", help="such as 90, 90s, 10m or 2h (60s, soak 1h, confirming 30s)"
    )
    load.add_argument(
        "--users",
        choices=USERS,
        default="single",
        help="single texts of mixed lengths, batches of 16, streams of 8, long texts, or a mix 7:1:1:1 (single)",
    )
    load.add_argument(
        "--texts", type=Path, metavar="FILE", help="draw from these: a text a line, or .jsonl with 'text'"
    )
    load.add_argument(
        "--repeat",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="of texts sent unchanged, which a response cache may know; the others are made distinct (0)",
    )
    load.add_argument(
        "--arrivals",
        dest="spacing",
        choices=("poisson", "constant"),
        default="poisson",
        help="independent callers, or evenly spaced (poisson)",
    )
    load.add_argument("--knee", type=_positive, metavar="N", help="overload: the knee, known already")
    load.add_argument("--step", type=_seconds, default=10.0, metavar="TIME", help="knee: length of a step (10s)")
    load.add_argument("--seed", type=int, default=1, help="of arrivals and of the choice of users (1)")

    verdict = parser.add_argument_group("verdict")
    verdict.add_argument("--goal", dest="goals", action="append", default=[], metavar="GOAL", help="see below")
    verdict.add_argument(
        "--compare", type=Path, metavar="FILE", help="an earlier result.json (the last of the same shape in the folder)"
    )
    verdict.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="FOLDER", help="reports go to FOLDER/DATE (build/loadtest)"
    )
    verdict.add_argument(
        "--check-with", type=Path, metavar="BINARY", help="find the knee again with this generator (docs/loadtest.md)"
    )

    server = parser.add_argument_group("server", "The environment variable REJECTION_TOKEN is sent as a bearer token.")
    server.add_argument("--url", metavar="HOST:PORT", help="its gRPC address; several with commas between")
    server.add_argument("--yes", action="store_true", help="load a server that is not on this machine")
    server.add_argument("--metrics", metavar="URL", help="Triton's metrics (http://127.0.0.1:8002/metrics if local)")
    server.add_argument(
        "--repository", type=Path, default=REPOSITORY, metavar="FOLDER", help="what the embedded server serves"
    )
    server.add_argument("--model", default="rejection", help="the model's name on the server (rejection)")
    server.add_argument("--timeout", type=_seconds, default=10.0, metavar="TIME", help="deadline of a request (10s)")
    server.add_argument("--compression", choices=("none", "deflate", "gzip"), default="none", help="of requests (none)")
    server.add_argument("--tls", action="store_true", help="encrypt; the options below imply it")
    server.add_argument("--ca", metavar="PEM", help="certificates that the server's must descend from")
    server.add_argument("--cert", metavar="PEM", help="the client's own certificate, for mutual TLS")
    server.add_argument("--key", metavar="PEM", help="its key")
    server.add_argument("--server-name", metavar="NAME", help="name in the server's certificate (that of the address)")

    generator = parser.add_argument_group("generator")
    generator.add_argument("--processes", type=_count, default=1, metavar="N", help="processes that send (1)")
    generator.add_argument("--channels", type=_count, default=4, metavar="N", help="connections of each process (4)")
    generator.add_argument(
        "--remote-workers", type=_count, default=0, metavar="N", help="wait for so many Locust workers from elsewhere"
    )
    generator.add_argument(
        "--bind", type=_bind, default="127.0.0.1:0", metavar="HOST:PORT", help="where they connect (loopback, any port)"
    )
    generator.add_argument("--capacity", action="store_true", help="measure the generator itself, and nothing else")
    return parser


def token() -> str | None:
    """The bearer token, from the environment."""
    return os.environ.get("REJECTION_TOKEN") or None


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return number


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share from 0 to 1")
    return number


def _seconds(text: str) -> float:
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    try:
        return _positive(text[:-1] if unit else text) * (unit or 1)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time such as 90, 90s, 10m or 2h") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > 1000:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to 1000")
    return int(text)


def _bind(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not HOST:PORT")
    return text


if __name__ == "__main__":
    sys.exit(main())
