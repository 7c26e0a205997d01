"""The program `rejection-server`; its command `serve`: a model repository on an embedded Triton, in the foreground."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

from rejection_server.commands import installing
from rejection_server.console import Console
from rejection_server.limits import address_space_problem
from rejection_server.parser import PROG, parse
from rejection_server.reload.cli import COMMANDS
from rejection_server.reload.cli import main as reload

if TYPE_CHECKING:
    from rejection_server.host import ServeOptions, Server

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    _open_closed_streams()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments[:1] == ["prepare"]:
            from rejection_server.prepare.cli import main as prepare

            return prepare(arguments[1:])
        if arguments[:1] == ["health"]:
            from rejection_server.health import main as health

            return health(arguments[1:])
        if arguments[:1] and arguments[0] in COMMANDS:
            return reload(arguments)
        return _serve(*parse(arguments))
    except ImportError as exc:
        print(
            f"{PROG}: the Python package {exc.name} is not installed in {sys.prefix}: "
            f"{installing('embedded')} installs what is needed",
            file=sys.stderr,
        )
        return 1
    except BrokenPipeError:  # nobody reads what we print
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _open_closed_streams() -> None:
    """Give each standard stream that is closed the null device, lest a pipe to Triton takes its number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _serve(arguments: argparse.Namespace, triton_arguments: list[str]) -> int:
    if problem := address_space_problem():
        print(f"{PROG}: {problem}", file=sys.stderr)
        return 1
    # Only now: help and wrong options are answered before anything is installed.
    from rejection_server.host import HostError, ServeOptions, Server
    from rejection_server.host.errors import OptionError, TritonExitedError
    from rejection_server.host.sizing import usable_cores
    from rejection_server.json_console import JsonConsole

    make_console = JsonConsole if arguments.log_format == "json" else Console
    console = make_console(arguments.log_level)
    options = ServeOptions(
        repository=arguments.repository,
        host=arguments.host,
        grpc_port=arguments.grpc_port,
        guard=not arguments.no_guard,
        guards=arguments.guards,
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        tls_client_ca=arguments.tls_client_ca,
        token_file=arguments.token_file,
        admin_key_file=arguments.admin_key_file,
        http_port=arguments.http_port,
        metrics_port=arguments.metrics_port,
        log_level=arguments.log_level,
        trace_url=arguments.trace,
        trace_rate=arguments.trace_rate,
        model_config_name=arguments.model_config_name,
        cache_bytes=arguments.cache_size,
        device=arguments.device,
        engine_cache=arguments.engine_cache,
        triton_arguments=tuple(triton_arguments),
    )
    # Where another configuration was chosen by name, or models come and go, the counts are the repository's own.
    if not (options.model_config_name or options.changes_models):
        cores = usable_cores() if arguments.cores is None else arguments.cores
        options = replace(options, cores=cores, weights=arguments.weight)
    elif arguments.cores is not None or arguments.weight:
        which = "--weight" if arguments.cores is None else "--cores"
        console.say(f"{which} goes with neither --model-config-name nor --model-control-mode")
        return 2
    if arguments.no_guard and arguments.guards > 1:
        console.say("--guards does not go with --no-guard")
        return 2
    for warning in _warnings(options):
        console.say(warning, "warning")
    server = Server(options, on_log=console.log, on_event=console.event, on_wait=console.progress, on_step=console.step)
    interrupts = _Interrupts(server, console)
    begin = time.monotonic()
    try:
        server.start()
    except HostError as exc:
        console.end_progress()
        if interrupts.received:
            return 128 + interrupts.received
        if isinstance(exc, TritonExitedError):  # unexplained: then its log is all there is
            console.release_log()
        console.say(str(exc))
        return 2 if isinstance(exc, OptionError) else 1
    console.end_progress()
    console.release_log()
    console.ready(server, options, time.monotonic() - begin)

    returncode = server.wait()
    assert returncode is not None, "waiting without a limit ends with Triton"
    if server.failure is not None:
        console.say(str(server.failure))
        returncode = returncode or 1  # it was not asked to stop
    return returncode if returncode >= 0 else 128 - returncode


def _warnings(options: ServeOptions) -> list[str]:
    """What the operator should know about who may call, and of more instances than run at a time, a sentence each."""
    from rejection_server.host.options import is_loopback
    from rejection_server.host.sizing import usable_cores

    warnings = []
    if options.cores is not None and options.cores > (usable := usable_cores()):
        warnings.append(
            f"--cores {options.cores} is more than the {usable} that this process may use: as many instances "
            "are started, each with its memory, and wait for one another"
        )
    if not options.guard:
        warnings.append("no guard: whoever reaches the port can end or overload Triton; let in trusted callers only")
    elif options.http_port is not None:
        warnings.append("HTTP is Triton's own and not guarded: let in trusted callers only, or leave out --http-port")
    if options.guard and options.tls_cert is None and options.token_file is None and not is_loopback(options.host):
        warnings.append(
            f"whoever reaches {options.host} may call, and what they send can be read on the way: give --tls-cert and "
            "--tls-key, or --token-file, or let in trusted callers only"
        )
    return warnings


class _Interrupts:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a graceful stop and a second SIGINT or SIGTERM into a kill."""

    def __init__(self, server: Server, console: Console) -> None:
        self.received = 0
        self._server = server
        self._console = console
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received:
            if number != signal.SIGHUP:
                self._server.kill()
            return
        self.received = number
        self._server.request_stop()
        self._console.stopping("Stopping once the requests in flight are answered; Ctrl-C again ends it at once.")
