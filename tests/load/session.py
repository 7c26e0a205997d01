"""One run from the command line to the verdict: target, generator, load, findings, report."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# First: Locust patches the standard library for gevent.
import locust  # noqa: F401

# isort: split
from load import cli, compare, findings, probe, report, texts
from load.console import Console, change_table, summary_lines
from load.controller import Controller
from load.goals import Verdict
from load.sampling import Sampler
from load.sending import Run, Sending
from load.target import RefusedError, Target, TargetError, check_target, embedded, given
from load.users import config_of


def run(options: cli.Options) -> int:
    """Returns the exit code."""
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.url is not None:
            check_target(options.url, is_allowed=options.yes)
        if options.texts is not None:
            texts.read(Path(options.texts))
        config_of(options)
    except (RefusedError, ValueError) as error:
        console.say(f"{cli.PROG}: {error}")
        return cli.EXIT_USAGE
    try:
        with _target(options, console) as target:
            return _load(options, target, console)
    except TargetError as error:
        console.say(f"{cli.PROG}: {error}")
        return cli.EXIT_NOT_MET
    except KeyboardInterrupt:
        return cli.EXIT_INTERRUPTED


@contextlib.contextmanager
def _target(options: cli.Options, console: Console) -> Iterator[Target]:
    if options.url is not None:
        yield given(options.url, options.metrics)
        return
    console.say("starting the embedded server")
    with embedded(options.repository) as target:
        yield target


def _load(options: cli.Options, target: Target, console: Console) -> int:
    run = Run(target, *probe.ask(target.url, options))
    sampler = Sampler(target.metrics, target.pid, run.work)
    if not sampler.has_metrics:
        unread = f"Triton's metrics at {target.metrics} do not answer" if target.metrics else "--metrics was not given"
        run.notes.append(f"no server side: {unread}")
    controller = Controller(options, target.url, sampler, console.progress)
    sending = Sending(options, controller, run, console)
    interrupted = False
    with controller.running():
        if options.remote_workers:
            console.say(f"{controller.workers} generator processes connected")
        try:
            sending.run()
        except KeyboardInterrupt:
            interrupted = True
            run.notes.append("interrupted: this is what was measured until then")
        time.sleep(1.1)  # the last second of the server's side
    if not any(stage.requests.count for stage in controller.stages):
        console.say("interrupted before anything was measured")
        return cli.EXIT_INTERRUPTED
    found = findings.gather(options, controller, sending, run)
    _compare(options, found, console)
    folder = options.output / run.started.strftime("%Y-%m-%dT%H-%M-%S")
    report.write(found, folder)
    for line in summary_lines(found):
        console.say(line)
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    console.say(f"report: {shown / 'report.html'}")
    if interrupted:
        return cli.EXIT_INTERRUPTED
    return 0 if all(verdict["is_met"] for verdict in found["verdicts"]) else cli.EXIT_NOT_MET


def _compare(options: cli.Options, found: dict[str, Any], console: Console) -> None:
    path = options.compare or report.last(options.output, found["settings"], found["target"])
    if path is None:
        return
    try:
        before = json.loads((path / "result.json" if path.is_dir() else path).read_text(encoding="utf-8"))
        compared = {
            "with": before["started"],
            "changes": [vars(change) for change in compare.changes(before, found)],
            "differences": compare.differences(before, found),
        }
    except Exception as error:  # whatever file it is, the run's own report is written
        found["notes"].append(f"{path} cannot be compared with: it is no result.json of scripts/loadtest ({error!r})")
        if options.compare:
            found["verdicts"].append(vars(Verdict(f"comparison with {path}", "not possible", is_met=False)))
        return
    found["compared"] = compared
    console.say(f"against the run of {before['started']}:\n{change_table(compared['changes']).text()}")
    for line in compared["differences"]:
        console.say(f"  but {line}")
