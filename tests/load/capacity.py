"""What the generator itself can send: its rate against a server that does nothing, and its CPU for each request."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

# First: Locust patches the standard library for gevent.
import locust  # noqa: F401

# isort: split
from load import cli, result, users
from load.console import Console
from load.controller import Controller
from load.rpc import Connection
from load.sampling import Sampler
from load.wording import ms

STEP_S = 5.0
FIRST_RATE = 200.0
GROWTH = 1.4


def measure(options: cli.Options) -> int:
    """Raise the rate until requests leave late; returns the exit code."""
    console = Console()
    stand_in = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("stand_in.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert stand_in.stdin is not None
    assert stand_in.stdout is not None
    try:
        url = f"127.0.0.1:{int(stand_in.stdout.readline())}"
        _climb(options, url, console)
    except KeyboardInterrupt:
        return cli.EXIT_INTERRUPTED
    finally:
        stand_in.stdin.close()
        stand_in.wait()
    return 0


def _climb(options: cli.Options, url: str, console: Console) -> None:
    connection = Connection(url=url, channels=options.channels, timeout_s=options.timeout_s)
    spacing: Any = options.spacing
    controller = Controller(
        connection,
        users.mix(options.users),
        options.texts.resolve() if options.texts else None,
        options.repeat,
        Sampler(None, None, options.model, []),
        spacing,
        options.seed,
        console.progress,
    )
    best = "nothing: not even the first rate left on time"
    rate = options.rate or FIRST_RATE
    with controller.running(options.processes, options.bind, options.remote_workers):
        while True:
            stage = controller.run(f"{rate:.0f}/s", [(0.0, rate), (STEP_S, rate)])
            found = result.figures(stage.recorder, 0.0, STEP_S)
            late = stage.recorder.total().late.percentile(99)
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
    how = (
        f"{controller.workers} processes, {controller.workers * options.channels} connections, users '{options.users}'"
    )
    console.say(f"capacity ({how}): {best}")
