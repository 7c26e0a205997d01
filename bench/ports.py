"""Ports of this machine that nothing listens on."""

import contextlib
import socket


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free just now, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(made.getsockname()[1]) for made in sockets]
