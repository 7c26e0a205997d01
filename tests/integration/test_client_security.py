"""What travels beside the texts, and encrypted: metadata, tokens, TLS, compression, message sizes."""

import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration.client_servers import Blocking, Gateway, MakeClient, make_certificates
from rejection_client import (
    AccessDeniedError,
    ClientConfig,
    OverloadedError,
    RejectionClient,
    ServerUnavailableError,
    Tls,
)
from rejection_server.host import Server

REFUSAL = "Sorry, but I can't assist with that."
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(params=[RejectionClient, Blocking], ids=["threads", "asyncio"])
def make_client(request: pytest.FixtureRequest) -> MakeClient:
    made: MakeClient = request.param
    return made


@pytest.fixture
def gateway(server: Server) -> Iterator[Gateway]:
    gateway = Gateway(server.grpc_address)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificates with the command openssl, which is not installed")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def trusting(certificates: Path, *, shows_own: bool, server_name: str | None = None) -> Tls:
    """The authority's clients, with a certificate of their own or without."""
    return Tls(
        ca_path=certificates / "ca.pem",
        certificate_path=certificates / "client.pem" if shows_own else None,
        private_key_path=certificates / "client.key" if shows_own else None,
        server_name=server_name,
    )


@pytest.fixture(params=[False, True], ids=["tls", "mutual-tls"])
def encrypted(request: pytest.FixtureRequest, server: Server, certificates: Path) -> Iterator[tuple[Gateway, bool]]:
    """A gateway for the name `triton.test`, and whether it wants a certificate of the client."""
    pair = ((certificates / "server.key").read_bytes(), (certificates / "server.pem").read_bytes())
    authority = (certificates / "ca.pem").read_bytes()
    gateway = Gateway(server.grpc_address, grpc.ssl_server_credentials([pair], authority, request.param))
    yield gateway, request.param
    gateway.stop()


def test_metadata_of_the_client_of_the_moment_and_of_the_call_is_sent(
    gateway: Gateway, make_client: MakeClient
) -> None:
    moment = {"traceparent": TRACE}
    config = ClientConfig(token="secret", metadata={"X-Tenant": "a"}, context=lambda: moment)
    with make_client(gateway.address, config) as client:
        client.classify(REFUSAL, metadata={"x-request": "7"})
        for _, sent in gateway.metadata:
            assert sent["authorization"] == "Bearer secret"
            assert (sent["x-tenant"], sent["traceparent"], sent["x-request"]) == ("a", TRACE, "7")
        moment["traceparent"] = TRACE.replace("b7", "c8")
        gateway.metadata.clear()
        assert len(list(client.stream([REFUSAL] * 3))) == 3
        assert {sent["traceparent"] for _, sent in gateway.metadata} == {moment["traceparent"]}
        assert all("x-request" not in sent for _, sent in gateway.metadata)


def test_compression_is_announced_and_understood(server: Server, gateway: Gateway, make_client: MakeClient) -> None:
    with make_client(gateway.address, ClientConfig(compression="gzip")) as client:
        compressed = client.classify(REFUSAL * 20)
    with make_client(server.grpc_address, ClientConfig(compression="deflate")) as client:
        assert client.classify(REFUSAL * 20) == compressed


def test_a_message_larger_than_allowed_is_told(server: Server, make_client: MakeClient) -> None:
    small = ClientConfig(max_send_bytes=1000)
    too_large = pytest.raises(OverloadedError, match=r"larger than max \(\d+ vs. 1000\)")
    with make_client(server.grpc_address, small) as client, too_large:
        client.classify("x" * 2000)


def test_encrypted(encrypted: tuple[Gateway, bool], certificates: Path, make_client: MakeClient) -> None:
    gateway, mutual = encrypted
    tls = trusting(certificates, shows_own=mutual, server_name="triton.test")
    with make_client(gateway.address, ClientConfig(tls=tls)) as client:
        assert client.is_ready()
        assert client.classify(REFUSAL).token_count > 5


def test_the_name_looked_up_is_the_one_in_the_certificate(
    encrypted: tuple[Gateway, bool], certificates: Path, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, mutual = encrypted
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: real("127.0.0.1" if "test" in str(host) else host, *rest, **more),
    )
    tls = trusting(certificates, shows_own=mutual)
    with make_client(f"triton.test:{gateway.port}", ClientConfig(tls=tls)) as client:
        assert client.is_ready()
    with make_client(f"other.test:{gateway.port}", ClientConfig(tls=tls)) as client:
        assert not client.is_ready()


@pytest.mark.parametrize("wrong", ["name", "authority", "certificate", "encryption"])
def test_what_does_not_fit_is_refused(
    encrypted: tuple[Gateway, bool], certificates: Path, make_client: MakeClient, wrong: str
) -> None:
    gateway, mutual = encrypted
    if wrong == "certificate" and not mutual:
        pytest.skip("asks for none")
    name = "other.test" if wrong == "name" else "triton.test"
    tls = trusting(certificates, shows_own=mutual and wrong != "certificate", server_name=name)
    if wrong == "authority":
        tls = replace(tls, ca_path=None)
    config = ClientConfig(tls=None if wrong == "encryption" else tls, timeout_s=5)
    told = "TLS handshake with" if wrong == "authority" else "cannot reach"
    with (
        make_client(gateway.address, config) as client,
        pytest.raises(ServerUnavailableError, match=rf"{told} 127\.0\."),
    ):
        client.classify(REFUSAL)
    assert gateway.metadata == []


def test_a_wrong_token_is_told(server: Server, make_client: MakeClient) -> None:
    class Guarded(Gateway):
        def service(self, call: Any) -> Any:
            if dict(call.invocation_metadata).get("authorization") == "Bearer right":
                return super().service(call)
            return grpc.unary_unary_rpc_method_handler(
                lambda _, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")
            )

    gateway = Guarded(server.grpc_address)
    try:
        with make_client(gateway.address, ClientConfig(token="right")) as client:
            assert client.classify(REFUSAL)
        with make_client(gateway.address, ClientConfig(token="wrong")) as client:
            with pytest.raises(AccessDeniedError, match="who are you"):
                client.classify(REFUSAL)
            with pytest.raises(AccessDeniedError):
                client.is_ready()
    finally:
        gateway.stop()
