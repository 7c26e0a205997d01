"""What the generator itself can send: its rate against a server that does nothing, and its CPU for each request."""

from __future__ import annotations

# First: Locust patches the standard library for gevent.
import locust  # noqa: F401

# isort: split
from load import cli, result, stand_in
from load.console import Console
from load.controller import Controller
from load.sampling import Sampler, Work
from load.tables import ms
from load.target import TargetError

STEP_S = 5.0
FIRST_RATE = 200.0
GROWTH = 1.4


def measure(options: cli.Options) -> int:
    """Raise the rate until requests leave late; returns the exit code."""
    console = Console()
    try:
        with stand_in.running() as url:
            _climb(options, url, console)
    except TargetError as error:
        console.say(f"{cli.PROG}: {error}")
        return cli.EXIT_NOT_MET
    except KeyboardInterrupt:
        return cli.EXIT_INTERRUPTED
    return 0


def _climb(options: cli.Options, url: str, console: Console) -> None:
    controller = Controller(options, url, Sampler(None, None, Work("", [])), console.progress)
    best = "nothing: not even the first rate left on time"
    rate = options.rate or FIRST_RATE
    with controller.running():
        while True:
            stage = controller.run(f"{rate:.0f}/s", [(0.0, rate), (STEP_S, rate)])
            found = result.figures(stage.requests, 0.0, STEP_S)
            late = stage.requests.late(99)
            problem = result.generator_problem(late, stage.cpu_shares, None)
            cpu_ms = 1000 * stage.cpu_s / max(1.0, found["answers"] or 0.0)
            line = (
                f"{found['rate']:.0f} requests/s, {cpu_ms:.2f} ms of CPU each, 99% left within {ms(late)}, "
                f"p99 {ms(found['p99'])}"
            )
            console.say(f"{rate:6.0f}/s: {line}{'  ' + problem if problem else ''}")
            if problem or (found["rate"] or 0.0) < 0.9 * rate:
                break
            best = line
            rate *= GROWTH
    connections = controller.workers * options.channels
    how = f"{controller.workers} processes, {connections} connections, users '{options.users}'"
    console.say(f"capacity ({how}): {best}")
