"""Locust's entry: users that wait for their answers, with Locust's web page, alone or distributed.

    .venv/bin/locust -f tests/load/locustfile.py --host 127.0.0.1:8001 --web-host 127.0.0.1
    ... --processes 2                          two generator processes
    ... --headless --users 20 --run-time 1m    without the web page
    ... Single                                 only this kind: Single, Batch, Stream, Long

The workers of `scripts/loadtest` run this file too: `--worker --master-host HOST --master-port PORT` adds one from
another machine.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import gevent
from locust import events
from locust.exception import StopUser
from locust.runners import WorkerRunner

from load import cli
from load.generator import Generator
from load.target import RefusedError, check_target
from load.users import Batch, Long, Single, Stream, TritonUser

__all__ = ["Batch", "Long", "Single", "Stream"]

if os.environ.get("LOADTEST_CHILD"):
    # Standard input is a pipe from scripts/loadtest: its end means that nobody is left to work for.
    gevent.get_hub().threadpool.spawn(lambda: (os.read(0, 1), os._exit(0)))


def _listen(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        Generator(environment)


def _options(parser: Any) -> None:
    cli.add_server_options(
        parser.add_argument_group("server", "--host gives its gRPC address, HOST:PORT (127.0.0.1:8001)")
    )


def _connect(environment: Any, **_: Any) -> None:
    options = environment.parsed_options
    url = (environment.host or "127.0.0.1:8001").removeprefix("http://").rstrip("/")
    try:
        check_target(url, is_allowed=options.yes)
        TritonUser.connect(url, options)
    except (RefusedError, ValueError) as error:
        sys.stderr.write(f"locust: {error}\n")
        environment.process_exit_code = 2
        environment.runner.quit()
        raise StopUser from error


_LISTENERS = ((events.init, _listen), (events.init_command_line_parser, _options), (events.test_start, _connect))
for _event, _listener in _LISTENERS:
    _event.add_listener(_listener)  # type: ignore[no-untyped-call]  # Locust has no types here
