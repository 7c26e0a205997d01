"""The command `rejection-server health`: whether a server answers calls now, for a container's health check.

It needs no shell, asks `grpc.health.v1.Health/Check`, which the guard passes on to Triton, and shows no token.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]

CHECK = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
"""A HealthCheckResponse whose status is SERVING."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns 0 where the server is ready, 1 where it is not."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.tls_cert is None) != (options.tls_key is None):  # of one alone gRPC's library dies
        parser.error("--tls-cert and --tls-key go together: give both, or neither")
    reason = _why_not(options)
    if reason is not None:
        print(f"rejection-server health: {options.address} is not ready: {reason}", file=sys.stderr)
        return 1
    print(f"{options.address} is ready")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rejection-server health",
        description="Ask a server whether it is ready: exit status 0 if so, else 1. For health checks of containers.",
        allow_abbrev=False,
    )
    port = os.environ.get("REJECTION_GRPC_PORT") or "8001"
    parser.add_argument(
        "address",
        nargs="?",
        default=f"127.0.0.1:{port}",
        metavar="HOST:PORT",
        help="where it listens (default: 127.0.0.1, REJECTION_GRPC_PORT or 8001)",
    )
    parser.add_argument(
        "--tls-ca",
        type=Path,
        metavar="PEM",
        help="authorities to know a server by that speaks TLS",
    )
    parser.add_argument("--server-name", metavar="NAME", help="the name in its certificate, if not the one asked")
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate to show, where it asks for one")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="that certificate's private key")
    parser.add_argument(
        "--timeout", type=float, default=4.0, metavar="S", help="seconds to wait for an answer (default: %(default)g)"
    )
    return parser


def _why_not(options: argparse.Namespace) -> str | None:
    """Why the server is not ready, in a few words; None if it is."""
    import grpc

    if options.tls_ca is None:
        channel = grpc.insecure_channel(options.address)
    else:
        try:
            credentials = grpc.ssl_channel_credentials(
                *(None if path is None else path.read_bytes() for path in (options.tls_ca, options.tls_key)),
                None if options.tls_cert is None else options.tls_cert.read_bytes(),
            )
        except OSError as exc:
            return f"{exc.filename} cannot be read ({exc.strerror})"
        name = [] if options.server_name is None else [("grpc.ssl_target_name_override", options.server_name)]
        channel = grpc.secure_channel(options.address, credentials, name)
    with channel:
        try:
            answer = channel.unary_unary(CHECK)(b"", timeout=options.timeout)
        except grpc.RpcError as exc:
            return f"{exc.code().name}, {exc.details()}"
    return None if answer == SERVING else "it says that it does not serve"
