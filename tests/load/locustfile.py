"""Locust's entry: users that wait for their answers, with Locust's web page, alone or distributed.

    PYTHONPATH=client .venv/bin/locust -f tests/load/locustfile.py --host 127.0.0.1:8001 --web-host 127.0.0.1
    ... --processes 2                          two generator processes
    ... --headless --users 20 --run-time 1m    without the web page
    ... Single                                 only this kind: Single, Batch, Stream, Long

The workers of `scripts/loadtest` run this file too: `--worker --master-host HOST --master-port PORT` adds one from
another machine.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust.exception import StopUser

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "client")]

from load import generator  # noqa: E402
from load.rpc import Connection  # noqa: E402
from load.users import Batch, Long, Single, Stream, TritonUser  # noqa: E402

__all__ = ["Batch", "Long", "Single", "Stream"]

if os.environ.get("LOADTEST_CHILD"):
    # Standard input is a pipe from scripts/loadtest: its end means that nobody is left to work for.
    gevent.get_hub().threadpool.spawn(lambda: (os.read(0, 1), os._exit(0)))

generator.install()


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    group = parser.add_argument_group("server", "--host gives its gRPC address, HOST:PORT (127.0.0.1:8001)")
    group.add_argument("--model", default="rejection", help="the model's name on the server (rejection)")
    group.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="deadline of each request (10)")
    group.add_argument("--channels", type=int, default=4, help="connections of each process (4)")
    group.add_argument("--texts", default="", metavar="FILE", help="draw from this file, a text a line or JSON lines")
    group.add_argument("--repeat", type=float, default=0.0, help="share of texts sent unchanged (0)")
    group.add_argument("--tls", action="store_true", help="encrypt; the options below imply it")
    group.add_argument("--ca", metavar="PEM", help="certificates that the server's must descend from")
    group.add_argument("--cert", metavar="PEM", help="the client's own certificate, for mutual TLS")
    group.add_argument("--key", metavar="PEM", help="its key")
    group.add_argument("--server-name", metavar="NAME", help="name in the server's certificate")
    group.add_argument("--yes", action="store_true", help="load a server that is not on this machine")


@events.test_start.add_listener
def _connect(environment: Any, **_: Any) -> None:
    options = environment.parsed_options
    from load.target import RefusedError, check_target

    url = (environment.host or "127.0.0.1:8001").removeprefix("http://").rstrip("/")
    try:
        check_target(url, is_allowed=options.yes)
        connection = Connection(
            url=url,
            model=options.model,
            timeout_s=options.timeout,
            channels=options.channels,
            tls=options.tls,
            ca=options.ca,
            cert=options.cert,
            key=options.key,
            server_name=options.server_name,
            token=os.environ.get("REJECTION_TOKEN") or None,
        )
        TritonUser.connect(connection, Path(options.texts) if options.texts else None, options.repeat)
    except (RefusedError, ValueError) as error:
        sys.stderr.write(f"locust: {error}\n")
        environment.process_exit_code = 2
        environment.runner.quit()
        raise StopUser from error
