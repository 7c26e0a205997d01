"""What the guard listens on."""

import asyncio
import socket

import pytest

from rejection_server.guard.counters import Snapshot
from rejection_server.guard.listening import listening_socket
from rejection_server.guard.metrics import MetricsServer
from rejection_server.guard.settings import GuardSettings


async def nothing() -> Snapshot:
    raise AssertionError("nobody asks for metrics")


async def connect(port: int) -> None:
    for host in ("127.0.0.1", "::1"):
        _, writer = await asyncio.open_connection(host, port)
        writer.close()


def test_every_address_is_those_of_ipv4_too_for_calls_and_metrics_alike() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6, which this machine does not have")

    async def main() -> None:
        with await listening_socket("::", 0) as listening:
            listening.listen()
            await connect(listening.getsockname()[1])
        settings = GuardSettings(upstream="unix:/nowhere", public_models=(), metrics_host="::", metrics_port=0)
        server = MetricsServer(settings, nothing)
        try:
            await connect(await server.start())
        finally:
            server.close()

    asyncio.run(main())
