"""Errors over real connections that need no model: refused, silent, closed, and every status a gRPC server can send."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from integration.client_servers import Blocking, MakeClient
from rejection_client import (
    ClientConfig,
    DeadlineExceededError,
    OverloadedError,
    RejectionClient,
    RequestCancelledError,
    ServerUnavailableError,
)
from rejection_client._status import RULES

RefusingServer = Callable[..., str]
"""Starts one, for a status code and `live`; returns its address."""


class Refuse(grpc.GenericRpcHandler):  # type: ignore[misc]  # untyped
    """Ends every call with one status; asked whether the model is ready, says so if `live`."""

    def __init__(self, code: grpc.StatusCode, live: bool) -> None:
        self.code = code
        self.live = live

    def service(self, call: Any) -> Any:
        if self.live and call.method.endswith("/ModelReady"):
            answer = service_pb2.ModelReadyResponse(ready=True).SerializeToString()
            return grpc.unary_unary_rpc_method_handler(lambda *_: answer)
        return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(self.code, "because"))


@pytest.fixture
def refusing_server() -> Iterator[RefusingServer]:
    servers = []

    def start(code: grpc.StatusCode, live: bool = True) -> str:
        server = grpc.server(ThreadPoolExecutor(1), handlers=[Refuse(code, live)], options=[("grpc.so_reuseport", 0)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_each_status_becomes_its_exception(refusing_server: RefusingServer, code: grpc.StatusCode) -> None:
    expected = OverloadedError if code is grpc.StatusCode.UNAVAILABLE else RULES[code].error
    with RejectionClient(refusing_server(code)) as client, pytest.raises(expected) as caught:
        client.classify("text")
    assert type(caught.value) is expected
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert caught.value.__cause__.code() is code


def test_a_proxy_that_speaks_for_a_dead_server_is_not_an_overload(refusing_server: RefusingServer) -> None:
    address = refusing_server(grpc.StatusCode.UNAVAILABLE, live=False)
    with RejectionClient(address) as client, pytest.raises(ServerUnavailableError, match="because"):
        client.classify("text")


@pytest.mark.parametrize("live", [True, False])
def test_a_client_left_open_does_not_hold_the_process(refusing_server: RefusingServer, live: bool) -> None:
    code = "import sys, rejection_client as r; client = r.RejectionClient(sys.argv[1]); client.classify('text')"
    address = refusing_server(grpc.StatusCode.UNAVAILABLE, live)
    done = subprocess.run([sys.executable, "-c", code, address], capture_output=True, timeout=30)
    assert done.stderr.splitlines()[-1].startswith(b"rejection_client.errors.")


def test_a_refused_connection_is_not_an_overload(closed_port: str) -> None:
    with RejectionClient(closed_port) as client, pytest.raises(ServerUnavailableError, match=closed_port):
        client.classify("text")


def test_a_name_that_does_not_resolve() -> None:
    with RejectionClient("no-such-host.invalid:8001") as client, pytest.raises(ServerUnavailableError):
        client.classify("text")


@pytest.mark.parametrize("make_client", [RejectionClient, Blocking], ids=["threads", "asyncio"])
def test_the_deadline_holds_while_a_name_is_looked_up(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    silence = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: silence.wait(20))
    started_s = time.monotonic()
    config = ClientConfig(timeout_s=0.3)
    unanswered = pytest.raises(ServerUnavailableError, match=r"look up some\.test:8001: .* no answer within 0\.3 s")
    with make_client("some.test:8001", config) as client, unanswered:
        client.classify("text")
    assert time.monotonic() - started_s < 5
    silence.set()


def test_the_deadline_holds_while_connecting(silent_server: str) -> None:
    started = time.monotonic()
    with (
        RejectionClient(silent_server, ClientConfig(timeout_s=0.3)) as client,
        pytest.raises(DeadlineExceededError, match=r"0\.3 s"),
    ):
        client.classify("text")
    assert time.monotonic() - started < 3


def test_closing_ends_a_call_of_another_thread(silent_server: str) -> None:
    client = RejectionClient(silent_server, ClientConfig(timeout_s=30))
    timer = threading.Timer(0.3, client.close)
    timer.start()
    with pytest.raises(RequestCancelledError):
        client.classify("text")
    timer.join()


def test_a_closed_client_says_so(closed_port: str) -> None:
    client = RejectionClient(closed_port)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.classify("text")


def test_no_texts_need_no_server(closed_port: str) -> None:
    with RejectionClient(closed_port) as client:
        assert client.classify_many([]) == []


@pytest.mark.parametrize("url", ["", [], "a:1,", "http://a:1", "HTTPS://a", "grpc://a:1", "a", "a:x", "a:0", "::1:80"])
def test_an_address_that_cannot_be_is_refused(url: str | list[str]) -> None:
    with pytest.raises(ValueError, match="url"):
        RejectionClient(url)
