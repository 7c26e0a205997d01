"""One run from the command line to the verdict: target, generator, load, findings, report."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

# First: Locust patches the standard library for gevent.
import locust  # noqa: F401

# isort: split
from load import cli, compare, findings, goals, probe, report, users
from load.console import Console, change_lines, summary_lines
from load.controller import Controller
from load.rpc import Connection, read_texts
from load.sampling import Sampler
from load.sending import Sending
from load.target import RefusedError, Target, TargetError, check_target, embedded, given


def run(options: cli.Options) -> int:
    """Returns the exit code."""
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.url is not None:
            check_target(options.url, is_allowed=options.yes)
        if options.texts is not None:
            read_texts(options.texts)
        connection = _connection(options, options.url or "127.0.0.1:8001")
        connection.config()
    except (RefusedError, ValueError) as error:
        console.say(f"{cli.PROG}: {error}")
        return cli.EXIT_USAGE
    try:
        with _target(options, console) as target:
            return _Session(options, target, console).run()
    except TargetError as error:
        console.say(f"{cli.PROG}: {error}")
        return cli.EXIT_NOT_MET
    except KeyboardInterrupt:
        return cli.EXIT_INTERRUPTED


def _connection(options: cli.Options, url: str) -> Connection:
    return Connection(
        url=url,
        model=options.model,
        timeout_s=options.timeout_s,
        channels=options.channels,
        tls=options.tls,
        ca=options.ca,
        cert=options.cert,
        key=options.key,
        server_name=options.server_name,
        token=cli.token(),
        compression=options.compression,
    )


@contextlib.contextmanager
def _target(options: cli.Options, console: Console) -> Iterator[Target]:
    if options.url is not None:
        yield given(options.url, options.metrics)
        return
    console.say("starting the embedded server")
    with embedded(options.repository) as target:
        yield target


class _Session:
    def __init__(self, options: cli.Options, target: Target, console: Console) -> None:
        self._options, self._target, self._console = options, target, console
        connection = _connection(options, target.url)
        self._started = datetime.now().astimezone()
        self._folder = options.output / self._started.strftime("%Y-%m-%dT%H-%M-%S")
        steps, self._queue = probe.ask(connection)
        self._sampler = Sampler(target.metrics, target.pid, options.model, steps)
        self._controller = Controller(
            connection,
            users.mix(options.users),
            options.texts.resolve() if options.texts else None,
            options.repeat,
            self._sampler,
            options.spacing,  # type: ignore[arg-type]  # argparse checks it
            options.seed,
            console.progress,
        )
        self._sending = Sending(options, self._controller, target.url, self._queue, console)

    def run(self) -> int:
        options = self._options
        notes = []
        if not self._sampler.has_metrics:
            notes.append(
                f"no server side: Triton's metrics at {self._target.metrics} do not answer"
                if self._target.metrics
                else "no server side: --metrics was not given"
            )
        interrupted = False
        with self._controller.running(options.processes, options.bind, options.remote_workers):
            if options.remote_workers:
                self._console.say(f"{self._controller.workers} generator processes connected")
            try:
                self._sending.run()
            except KeyboardInterrupt:
                interrupted = True
                notes.append("interrupted: this is what was measured until then")
            time.sleep(1.1)  # the last second of the server's side
        if not any(stage.recorder.cells for stage in self._controller.stages):
            self._console.say("interrupted before anything was measured")
            return cli.EXIT_INTERRUPTED
        found = findings.gather(
            options, self._controller, self._sending, self._started, self._target.description, self._queue, notes
        )
        self._compare(found)
        report.write(found, self._folder)
        for line in summary_lines(found):
            self._console.say(line)
        self._console.say(f"report: {self._shown_folder() / 'report.html'}")
        if interrupted:
            return cli.EXIT_INTERRUPTED
        return 0 if all(verdict["is_met"] for verdict in found["verdicts"]) else cli.EXIT_NOT_MET

    def _shown_folder(self) -> Path:
        with contextlib.suppress(ValueError):
            return self._folder.relative_to(Path.cwd())
        return self._folder

    def _compare(self, found: dict[str, Any]) -> None:
        path = self._options.compare or report.last(self._options.output, found["settings"], found["target"])
        if path is None:
            return
        try:
            before = json.loads((path / "result.json" if path.is_dir() else path).read_text(encoding="utf-8"))
            changes = compare.changes(before, found)
            found["compared"] = {
                "with": before["started"],
                "changes": [{**vars(change), "percent": change.percent, "word": change.word} for change in changes],
                "differences": compare.differences(before, found),
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            found["notes"].append(f"{path} cannot be compared with: it is no result.json of scripts/loadtest ({error})")
            if self._options.compare:
                found["verdicts"].append(vars(goals.Verdict(f"comparison with {path}", "not possible", is_met=False)))
            return
        self._console.say(f"against the run of {before['started']}:")
        for line in change_lines(changes):
            self._console.say(line)
        for line in found["compared"]["differences"]:
            self._console.say(f"  but {line}")
