"""Sockets to listen on."""

from __future__ import annotations

import asyncio
import socket

__all__ = ["listening_socket"]


async def listening_socket(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A socket that is bound to a name or address and a port; raises OSError.

    The address `::` takes callers over IPv4, too, where the system does not forbid it.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # IPv4 first: that is where clients look for "localhost".
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening
