"""The command line of `rejection-server`: its commands, and the options of `serve`."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rejection_server import MODEL_REPOSITORY, __version__
from rejection_server.commands import command
from rejection_server.reload.cli import COMMANDS

__all__ = ["PROG", "parse"]

PROG = command("serve")
VERSION = f"rejection-server {__version__}"

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

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
  REJECTION_GRPC_PORT=9001 {serve} --config serve.toml --print-config
      see what an environment variable, a file and the command line come to
  {serve} --cores 4 --cache-size 1G
      use 4 cores of a larger machine, and remember more answers
  {serve} --repository build/guard --weight toxicity=2
      several classifiers, toxicity with twice the cores of each other
  {serve} --host 0.0.0.0 --tls-cert server.pem --tls-key server.key --token-file tokens
      let in callers from elsewhere who have a token, encrypted; docs/security.md tells more
  {serve} --admin-key-file key
      let whoever sends the key change the log and traces, and load models; rejection-server reload takes it, too
  {serve} -- --model-load-thread-count=2
      what follows -- goes to tritonserver as it is

exit status:
  Triton's own; 128 + N if signal N ended it; 1 if it could not be started, 2 for a wrong option
"""


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of `serve`, and the arguments of tritonserver that follow `--`; exits with 2 for a wrong option.

    Raises ImportError where ConfigArgParse is not installed; help needs nothing.
    """
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = arguments[1:split]
    if arguments[:1] != ["serve"]:
        _commands().parse_args(arguments[:split])
    if {"-h", "--help", "--version"} & set(options):
        _serve(argparse.ArgumentParser).parse_args(options)
    from rejection_server.layered import LayeredParser

    parser = _serve(LayeredParser)
    parsed = parser.parse(options)
    if parsed.print_config:
        sys.stdout.write(parser.effective(parsed))
        parser.exit()
    return parsed, arguments[split + 1 :]


def _commands() -> argparse.ArgumentParser:
    """For what is no command, or none that is known."""
    parser = argparse.ArgumentParser(
        prog="rejection-server",
        description="Serve text classifiers on the Triton Inference Server.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("serve", help="serve a model repository until stopped")
    commands.add_parser("prepare", help="make a model repository of a Hugging Face text classifier")
    commands.add_parser("health", help="ask a server whether it is ready, for health checks of containers")
    for name, what in COMMANDS.items():
        commands.add_parser(name, help=what)
    return parser


def _serve(kind: Callable[..., Parser]) -> Parser:
    serve = kind(
        prog=PROG,
        usage="%(prog)s [options] [-- TRITONSERVER_ARGUMENT ...]",
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
    serve.add_argument(
        "--guards",
        type=int,
        default=1,
        metavar="N",
        help="processes of the guard, which share the port and its bounds: a connection has one of them, so a caller "
        "with one connection has one's part (default: 1)",
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
        "--engine-cache",
        type=Path,
        metavar="FOLDER",
        help="where TensorRT's engines are kept, which a repository made with --engine tensorrt needs and the first "
        "start builds (default: rejection-server/engines in XDG_CACHE_HOME or ~/.cache)",
    )
    serve.add_argument(
        "--cores",
        type=int,
        metavar="N",
        help="cores to use: one classifier instance of one thread for each, and a tokenizer for every eight "
        "(default: all that this process may use, its control group's limit included)",
    )
    serve.add_argument(
        "--weight",
        action=_Weights,
        default={},
        metavar="NAME=N",
        help="of a classifier, where the repository has several: they share the cores by weight, one instance each at "
        "least; may be repeated, or commas between (default: 1 each, equal parts)",
    )
    serve.add_argument(
        "--cache-size",
        type=_size,
        metavar="SIZE",
        help="memory of the response cache, in bytes or with K, M, G: a repeated text is answered from it without "
        "running a model; off is none (default: 64M; off with -- --model-control-mode, because Triton then keeps "
        "the answers of a model that has been replaced)",
    )
    serve.add_argument(
        "--log-level",
        choices=("error", "warning", "info", "verbose"),
        default="warning",
        help="least severe lines of Triton's log to show, on standard error; from warning on also requests that are "
        "refused or fail, one a second of each status code (default: %(default)s)",
    )
    serve.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json writes each event as a line of JSON to standard error, that the server is ready included (default: "
        "%(default)s)",
    )
    serve.add_argument(
        "--trace",
        metavar="URL",
        help="send spans of requests to this OTLP/HTTP port, such as http://127.0.0.1:4318: a caller's sampled trace "
        "goes on through the models (default: none)",
    )
    serve.add_argument(
        "--trace-rate",
        type=int,
        default=1000,
        metavar="N",
        help="of so many requests without a trace of their own one begins one; 0 is none (default: %(default)s)",
    )
    serve.add_argument(
        "--model-config-name",
        metavar="NAME",
        help="for each model that has one, use configs/NAME.pbtxt in place of its config.pbtxt",
    )
    serve.add_argument(
        "--config",
        metavar="FILE",
        help="TOML file of options by their names without the dashes; environment variables (REJECTION_GRPC_PORT for "
        "--grpc-port, and so on) win over it, and the command line over both",
    )
    serve.add_argument(
        "--print-config",
        action="store_true",
        help="print the options that would be used, and where each is from, as such a file, and exit",
    )
    return serve


class _Weights(argparse.Action):
    """Puts NAME=N, or several with commas between, together to weights by name."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        del parser, option
        found = dict(getattr(namespace, self.dest))
        for part in values.split(","):
            name, _, weight = part.partition("=")
            try:
                found[name] = float(weight)
            except ValueError:
                found[name] = math.nan
            if not (name and 0 < found[name] < math.inf):
                raise argparse.ArgumentError(self, f"'{part}' is no weight: give NAME=N, N above 0")
        setattr(namespace, self.dest, found)


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
