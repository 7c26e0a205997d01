"""The metrics of guard and Triton on one port: a small HTTP/1.1 server that knows GET /metrics."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from rejection_server.guard.counters import Snapshot
from rejection_server.guard.listening import listening_socket
from rejection_server.guard.memory import resident_bytes
from rejection_server.guard.settings import UNIX, GuardSettings

__all__ = ["MetricsServer"]

_log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
"""For the request to arrive, for Triton's answer, and for ours to be taken."""
MAX_REQUEST_BYTES = 16384
MAX_CONNECTIONS = 16
MAX_UPSTREAM_BYTES = 1 << 24


class MetricsServer:
    """Serves metrics at `metrics_host` and `metrics_port`.

    Args:
        settings: of the guard.
        snapshot: what the guard, and those that share its port, have done so far.
    """

    def __init__(self, settings: GuardSettings, snapshot: Callable[[], Awaitable[Snapshot]]) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError."""
        settings = self._settings
        assert settings.metrics_port is not None, "the guard starts this only where there is a port"
        listening = await listening_socket(settings.metrics_host, settings.metrics_port)
        self._server = await asyncio.start_server(self._connected, sock=listening, limit=MAX_REQUEST_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections += 1
        try:
            async with asyncio.timeout(TIMEOUT_S):
                request = await reader.readuntil(b"\r\n\r\n")
                status, body = await self._answer(request)
                head = (
                    f"HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"
                    f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._connections -= 1

    async def _answer(self, request: bytes) -> tuple[str, bytes]:
        method, _, rest = request.partition(b" ")
        if method != b"GET":
            return "405 Method Not Allowed", b"only GET is known here\n"
        if rest.partition(b" ")[0].partition(b"?")[0] != b"/metrics":
            return "404 Not Found", b"only /metrics is here\n"
        memory = await asyncio.to_thread(resident_bytes, os.getppid()) if self._settings.measures_parent else {}
        return "200 OK", await self._upstream() + (await self._snapshot()).prometheus(memory).encode()

    async def _upstream(self) -> bytes:
        """Triton's own metrics, nothing if it does not answer."""
        address = self._settings.upstream_metrics
        if address is None:
            return b""
        try:
            async with asyncio.timeout(TIMEOUT_S / 2):
                if address.startswith(UNIX):
                    reader, writer = await asyncio.open_unix_connection(address.removeprefix(UNIX))
                    url = urlsplit("http://localhost/metrics")
                else:
                    url = urlsplit(address)
                    reader, writer = await asyncio.open_connection(url.hostname, url.port or 80)
                try:
                    # HTTP/1.0: the answer ends with the connection and comes in one piece.
                    writer.write(f"GET {url.path or '/'} HTTP/1.0\r\nhost: {url.netloc}\r\n\r\n".encode())
                    answer = bytearray()
                    while (part := await reader.read(1 << 16)) and len(answer) < MAX_UPSTREAM_BYTES:
                        answer += part
                finally:
                    writer.close()
        except (OSError, TimeoutError) as exc:
            _log.warning("no metrics of Triton from %s: %s", address, exc)
            return b""
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            return b""
        return body if body.endswith(b"\n") or not body else body + b"\n"
