"""Runs over many rows: a server that restarts, output files, and going on where an earlier run was stopped."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.client_servers import make_repository, start_servers, stop_servers
from rejection_client import ClientConfig, RejectionClient, RejectionError
from rejection_server.host import Server


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("batch"))


@pytest.fixture
def restarting(repository: Path) -> Iterator[list[Server]]:
    """A server in a list, where a test may put its successor."""
    servers = start_servers(repository)
    yield servers
    stop_servers(servers)


def port_of(server: Server) -> int:
    return int(server.grpc_address.rsplit(":", 1)[1])


def restart(servers: list[Server], repository: Path, after_s: float) -> None:
    """The server dies, and comes back at the same address so much later."""
    port = port_of(servers[0])
    stop_servers(servers)
    time.sleep(after_s)
    servers[:] = start_servers(repository, port=port)


def test_a_request_outlives_a_restart_that_is_longer_than_its_deadline(
    restarting: list[Server], repository: Path
) -> None:
    address = restarting[0].grpc_address
    with RejectionClient(address, ClientConfig(timeout_s=1.0, outage_s=60)) as client:
        assert client.classify("one").label == "NORMAL"
        again = threading.Thread(target=restart, args=(restarting, repository, 2.5))
        again.start()
        again.join(0.5)
        results = [result.unwrap().label for result in client.stream(["two", "sorry"])]
        again.join()
        assert results == ["NORMAL", "REJECTION"]
        stop_servers(restarting)
        assert not client.is_ready()
        with pytest.raises(RejectionError), RejectionClient(address, ClientConfig(outage_s=60)) as stranger:
            stranger.classify("a server that never was is not waited for")
