"""The program `rejection-server`; its command `serve`: a model repository on an embedded Triton, in the foreground."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rejection_server import MODEL_REPOSITORY, __version__
from rejection_server.commands import command, installing
from rejection_server.limits import address_space_problem

if TYPE_CHECKING:
    from rejection_server.host import ServeOptions, Server

__all__ = ["main"]

PROG = command("serve")
VERSION = f"rejection-server {__version__}"
EXAMPLE_TEXT = "Sorry, but I can't assist with that."
PROGRESS_AFTER_S = 2.0

DESCRIPTION = """\
Serve rejection detection with the Triton Inference Server, on this machine and without a container.

Triton loads the model repository, warms every model up and answers gRPC until Ctrl-C or SIGTERM, which lets the
requests in flight finish; a second Ctrl-C ends it at once.
"""

EPILOG = """\
examples:
  {serve}
      serve on 127.0.0.1:8001, metrics on 127.0.0.1:8002
  {serve} --host 0.0.0.0
      serve other machines too
  {serve} --grpc-port 0 --metrics-port off
      on whatever port is free, publishing no metrics
  {serve} --log-level info
      show what Triton says while it loads
  {serve} --cores 4 --cache-size 1G
      use 4 cores of a larger machine, and remember more answers
  {serve} --host 0.0.0.0 --tls-cert server.pem --tls-key server.key --token-file tokens
      let in callers from elsewhere who have a token, encrypted; docs/security.md tells more
  {serve} --admin-key-file key -- --model-control-mode=explicit '--load-model=*'
      let whoever sends the key load and unload models
  {serve} -- --model-load-thread-count=2
      what follows -- goes to tritonserver as it is

exit status:
  Triton's own; 128 + N if signal N ended it; 1 if it could not be started, 2 for a wrong option
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    _open_closed_streams()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments[:1] == ["prepare"]:
            from rejection_server.prepare.cli import main as prepare

            return prepare(arguments[1:])
        options, triton_arguments = _parse(arguments)
        return _serve(options, triton_arguments)
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


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        prog="rejection-server",
        description="Serve text classifiers on the Triton Inference Server.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("prepare", help="make a model repository of a Hugging Face text classifier")
    serve = commands.add_parser(
        "serve",
        prog=PROG,
        usage="%(prog)s [options] [-- TRITONSERVER_ARGUMENT ...]",
        help="serve a model repository until stopped",
        description=DESCRIPTION,
        epilog=EPILOG.format(serve=PROG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    serve.add_argument("--version", action="version", version=VERSION)
    serve.add_argument(
        "--repository",
        type=Path,
        default=MODEL_REPOSITORY,
        metavar="FOLDER",
        help="model repository (default: the bundled one)",
    )
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address of this machine to listen on; 0.0.0.0 for all (default: %(default)s, this machine only)",
    )
    serve.add_argument(
        "--grpc-port",
        type=int,
        default=8001,
        metavar="PORT",
        help="gRPC port; 0 takes a free one (default: %(default)s)",
    )
    serve.add_argument(
        "--no-guard",
        action="store_true",
        help="let callers talk to Triton itself, without the guard that checks requests, bounds what they take and "
        "keeps administration from them: for trusted callers only, and for options of Triton's own gRPC port",
    )
    for name, metavar, what in (
        ("tls-cert", "PEM", "the server's certificate and its chain: callers then have to speak TLS"),
        ("tls-key", "PEM", "the certificate's private key, not encrypted"),
        ("tls-client-ca", "PEM", "authorities: only callers with a certificate of theirs are let in"),
        ("token-file", "FILE", "tokens, one a line: callers have to send one of them, save for health"),
        ("admin-key-file", "FILE", "a key: whoever sends it may load models and set the log; nobody may otherwise"),
    ):
        serve.add_argument(f"--{name}", type=Path, metavar=metavar, help=what)
    serve.add_argument(
        "--http-port",
        type=_port,
        metavar="PORT",
        help="HTTP port, Triton's own, without the guard; 0 takes a free one (default: off)",
    )
    serve.add_argument(
        "--metrics-port",
        type=_port,
        default=8002,
        metavar="PORT",
        help="port of the Prometheus metrics; 0 takes a free one, off publishes none (default: %(default)s)",
    )
    serve.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="what the classifier runs on; gpu takes a repository that was prepared for one, and first sees that the "
        "GPU answers as the original did (default: %(default)s)",
    )
    serve.add_argument(
        "--cores",
        type=int,
        metavar="N",
        help="cores to use: one classifier instance of one thread for each, and a tokenizer for every eight "
        "(default: all that this process may use, its control group's limit included)",
    )
    serve.add_argument(
        "--cache-size",
        type=_size,
        metavar="SIZE",
        help="memory of the response cache, in bytes or with K, M, G: a repeated text is answered from it without "
        "running a model; off is none (default: 64M; off with --model-control-mode, because Triton keeps the answers "
        "of a model that has been replaced)",
    )
    serve.add_argument(
        "--log-level",
        choices=("error", "warning", "info", "verbose"),
        default="warning",
        help="least severe lines of Triton's log to show, on standard error (default: %(default)s)",
    )
    serve.add_argument(
        "--model-config-name",
        metavar="NAME",
        help="for each model that has one, use configs/NAME.pbtxt in place of its config.pbtxt",
    )
    return parser.parse_args(arguments[:split]), arguments[split + 1 :]


def _port(text: str) -> int | None:
    if text == "off":
        return None
    try:
        return int(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a port nor off") from exc


def _size(text: str) -> int:
    if text == "off":
        return 0
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no size: give bytes, a number with K, M or G, or off")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def _serve(arguments: argparse.Namespace, triton_arguments: list[str]) -> int:
    if problem := address_space_problem():
        print(f"{PROG}: {problem}", file=sys.stderr)
        return 1
    try:
        # Only now: help and wrong options are answered before anything is installed.
        from rejection_server.host import HostError, ServeOptions, Server
        from rejection_server.host.errors import OptionError, TritonExitedError
        from rejection_server.host.sizing import usable_cores
    except ImportError as exc:
        print(
            f"{PROG}: the Python package {exc.name} is not installed in {sys.prefix}: "
            f"{installing('embedded')} installs what is needed",
            file=sys.stderr,
        )
        return 1
    # Where another configuration was chosen by name, or models come and go, the counts are the repository's own.
    options = ServeOptions(
        repository=arguments.repository,
        host=arguments.host,
        grpc_port=arguments.grpc_port,
        guard=not arguments.no_guard,
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        tls_client_ca=arguments.tls_client_ca,
        token_file=arguments.token_file,
        admin_key_file=arguments.admin_key_file,
        http_port=arguments.http_port,
        metrics_port=arguments.metrics_port,
        log_level=arguments.log_level,
        model_config_name=arguments.model_config_name,
        cache_bytes=arguments.cache_size,
        device=arguments.device,
        triton_arguments=tuple(triton_arguments),
    )
    # Where another configuration was chosen by name, or models come and go, the counts are the repository's own.
    if not (options.model_config_name or options.changes_models):
        options = replace(options, cores=usable_cores() if arguments.cores is None else arguments.cores)
    elif arguments.cores is not None:
        print(f"{PROG}: --cores goes with neither --model-config-name nor --model-control-mode", file=sys.stderr)
        return 2
    for warning in _warnings(options):
        print(f"{PROG}: {warning}", file=sys.stderr)
    console = _Console(hold_log=options.log_level in ("error", "warning"))
    server = Server(options, on_log=console.log, on_wait=console.progress)
    interrupts = _Interrupts(server)
    begin = time.monotonic()
    try:
        server.start()
    except HostError as exc:
        console.end_progress()
        if interrupts.received:
            return 128 + interrupts.received
        if isinstance(exc, TritonExitedError):  # unexplained: then its log is all there is
            console.release_log()
        print(f"{PROG}: {exc}", file=sys.stderr)
        return 2 if isinstance(exc, OptionError) else 1
    console.end_progress()
    console.release_log()
    _print_summary(server, options, time.monotonic() - begin)

    returncode = server.wait()
    assert returncode is not None, "waiting without a limit ends with Triton"
    if server.failure is not None:
        print(f"{PROG}: {server.failure}", file=sys.stderr)
        returncode = returncode or 1  # it was not asked to stop
    return returncode if returncode >= 0 else 128 - returncode


def _warnings(options: ServeOptions) -> list[str]:
    """What the operator should know about who may call, a sentence each."""
    from rejection_server.host.options import is_loopback

    warnings = []
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

    def __init__(self, server: Server) -> None:
        self.received = 0
        self._server = server
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received:
            if number != signal.SIGHUP:
                self._server.kill()
            return
        self.received = number
        self._server.request_stop()
        # Not print(): the signal may have come in the middle of one.
        os.write(2, b"\nStopping once the requests in flight are answered; Ctrl-C again ends it at once.\n")


class _Console:
    """Writes Triton's log and the progress of loading to standard error.

    While the models load, the log of a quiet start is held back: if a model fails, one sentence says why.
    """

    def __init__(self, *, hold_log: bool) -> None:
        self._held: list[str] | None = [] if hold_log else None
        self._rewrites = sys.stderr.isatty() and not self._held
        self._shown_s = 0

    def log(self, line: str) -> None:
        if self._held is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._held.append(line)

    def release_log(self) -> None:
        held, self._held = self._held or [], None
        for line in held:
            self.log(line)

    def progress(self, elapsed_s: float) -> None:
        if elapsed_s < PROGRESS_AFTER_S or int(elapsed_s) == self._shown_s:
            return
        first, self._shown_s = not self._shown_s, int(elapsed_s)
        if self._rewrites:
            print(f"\rLoading the models ... {self._shown_s} s", end="", file=sys.stderr, flush=True)
        elif first or self._shown_s % 10 == 0:
            print(f"Loading the models ... {self._shown_s} s", file=sys.stderr, flush=True)

    def end_progress(self) -> None:
        if self._rewrites and self._shown_s:
            print(file=sys.stderr, flush=True)


def _print_summary(server: Server, options: ServeOptions, elapsed_s: float) -> None:
    name, precision = _describe_model(options.repository)
    print(f"Ready after {elapsed_s:.1f} s.")
    for service, address in server.bound.items():
        print(f"  {service:8} {address}")
    print(f"  model    {name}, {precision}")
    if options.device == "gpu":
        print("  device   GPU, which answered the original's texts as the original did")
    if server.instances:
        print(f"  layout   {_describe_layout(server.instances, options)}")
    print(f"  cache    {_describe_cache(options.cache_size)}")
    url = [] if server.grpc_address == "127.0.0.1:8001" else ["--url", server.grpc_address]
    url += [] if options.tls_cert is None else ["--tls"]
    url += [] if options.token_file is None else ["--token-file", str(options.token_file)]
    print(f"Try it:    {shlex.join([*command('classify').split(), *url])} {_quoted(EXAMPLE_TEXT)}")
    print("Ctrl-C stops the server.", flush=True)


def _describe_model(repository: Path) -> tuple[str, str]:
    """Name and precision of the classifier's newest version, as its preparation wrote them down beside it."""
    versions = [folder for folder in repository.glob("classifier/[0-9]*") if folder.name.isdecimal()]
    newest = max(versions, key=lambda folder: int(folder.name), default=repository / "classifier" / "1")
    try:
        facts = json.loads((newest / "model.json").read_text(encoding="utf-8"))
        return str(facts.get("name", "rejection")), str(facts.get("precision", "unknown precision"))
    except (OSError, ValueError, AttributeError):
        return "rejection", "unknown precision"


def _describe_layout(instances: Mapping[str, int], options: ServeOptions) -> str:
    counts = ", ".join(f"{count} {model}" for model, count in sorted(instances.items()))
    return f"{counts} ({options.cores} core{'' if options.cores == 1 else 's'})"


def _describe_cache(size: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.4g} {unit} for repeated texts"
    return "off"


def _quoted(text: str) -> str:
    """In double quotes, as a person would type it; the text holds nothing that they would not protect."""
    return f'"{text}"'
