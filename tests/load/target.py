"""What is loaded: a server somewhere, or one started for the run; one on another machine only by a person's word."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rejection_client.channels import is_loopback, parse_url

STOP_S = 60.0


class RefusedError(Exception):
    """The server must not be loaded without a word from a person."""


class TargetError(Exception):
    """The server cannot be started or does not answer."""


@dataclass(frozen=True)
class Target:
    """A server to load."""

    url: str
    metrics: str | None
    """URL of its Prometheus metrics, None if unknown."""
    pid: int | None
    """Its process, if it is on this machine and may be looked at."""
    description: str


def check_target(url: str, *, is_allowed: bool) -> None:
    """Raise RefusedError for an address beyond this machine, unless allowed; ValueError for what is no address."""
    for target in parse_url(url):
        if not is_allowed and not is_loopback(target):
            raise RefusedError(
                f"{target.name} is not on this machine: a load test can bring a server down for everybody; "
                "add --yes if that one is yours to load"
            )


def given(url: str, metrics: str | None) -> Target:
    """A server that runs already; raises TargetError for a name that cannot be looked up."""
    first = parse_url(url)[0]
    try:
        is_local = is_loopback(first) and first.host is not None
    except ValueError as error:
        raise TargetError(str(error)) from error
    if metrics is None and is_local:
        host = str(first.host)
        metrics = f"http://{f'[{host}]' if ':' in host else host}:8002/metrics"
    return Target(url, metrics, _listening(first.port) if is_local else None, f"the server at {url}")


@contextlib.contextmanager
def embedded(repository: Path) -> Iterator[Target]:
    """Start the embedded server on free ports, in a process that knows nothing of gevent; gone after the block."""
    # A session of its own: Ctrl-C ends the load first, and the server when the report is written.
    process = subprocess.Popen(
        [sys.executable, "-m", "load.embedded", repository],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise TargetError("the embedded server did not start; the lines above say why")
        told = json.loads(line)
        yield Target(told["grpc"], told["metrics"], told["pid"], "the embedded server, started for this run")
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()  # its guardian stops Triton then


def _listening(port: int) -> int | None:
    """The process of this user that listens on a port of this machine."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return int(connection.pid)
    return None
