"""One embedded Triton with the model repository as checked out, for the whole session."""

import signal
from collections.abc import Iterator

import pytest

from integration import meaning_models
from integration.client_servers import start_servers, stop_servers
from rejection_server.host import ServeOptions, Server
from support.kserve import Wire
from support.repository import REPOSITORY

# A shell's background job ignores Ctrl-C, and so would every command that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A ready `Server` on free ports; the last lines of Triton's log are shown if it will not start."""
    log_path = tmp_path_factory.mktemp("triton") / "triton.log"
    # No cache: tests ask for the same texts again and again, and mean the models, not what is remembered of them.
    options = ServeOptions(
        repository=REPOSITORY, grpc_port=0, metrics_port=0, cache_bytes=0, log_level="info", log_path=log_path
    )
    server = Server(options)
    try:
        server.start()
    except Exception as exc:
        exc.add_note("\n".join(server.log_tail()[-60:]))
        raise
    yield server
    assert server.failure is None, "it lived until the end"
    # Not stopped: that is for test_host_lifecycle.py. Triton 2.51 may keep the request of a call that was cancelled at
    # the wrong moment (triton-inference-server/server#7368), and some tests cancel calls; it would wait 30 s in vain.
    server.kill()
    server.wait()


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Triton without a guard, which tests may freeze: nobody ends it for its silence."""
    log_path = tmp_path_factory.mktemp("frozen") / "triton.log"
    options = ServeOptions(
        repository=REPOSITORY,
        guard=False,
        silence_s=None,
        grpc_port=0,
        metrics_port=0,
        cache_bytes=0,
        log_path=log_path,
    )
    with Server(options) as triton:
        yield triton
        triton.kill()


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Triton with a model of every kind, by what its answers mean (`meaning_models`)."""
    servers = start_servers(meaning_models.make_repository(tmp_path_factory.mktemp("kinds")))
    yield servers[0]
    stop_servers(servers)


@pytest.fixture(scope="session")
def wire(server: Server) -> Wire:
    """A channel to that server, with nothing of ours between."""
    return Wire(server.grpc_address)
