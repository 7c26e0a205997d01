"""What travels beside the texts, and encrypted: metadata, tokens, TLS, compression, message sizes."""

import shutil
import socket

import grpc
import pytest

from integration.client_servers import Blocking, Gateway, make_certificates
from rejection_client import (
    AccessDeniedError,
    ClientConfig,
    OverloadedError,
    RejectionClient,
    ServerUnavailableError,
    Tls,
)

REFUSAL = "Sorry, but I can't assist with that."
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(params=[RejectionClient, Blocking], ids=["threads", "asyncio"])
def make_client(request):
    return request.param


@pytest.fixture
def gateway(server):
    gateway = Gateway(server.grpc_address)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificates with the command openssl, which is not installed")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=[False, True], ids=["tls", "mutual-tls"])
def encrypted(request, server, certificates):
    """A gateway for the name `triton.test`, and whether it wants a certificate of the client."""
    pair = ((certificates / "server.key").read_bytes(), (certificates / "server.pem").read_bytes())
    authority = (certificates / "ca.pem").read_bytes()
    gateway = Gateway(server.grpc_address, grpc.ssl_server_credentials([pair], authority, request.param))
    yield gateway, request.param
    gateway.stop()


def test_metadata_of_the_client_of_the_moment_and_of_the_call_is_sent(gateway, make_client) -> None:
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


def test_compression_is_announced_and_understood(server, gateway, make_client) -> None:
    with make_client(gateway.address, ClientConfig(compression="gzip")) as client:
        compressed = client.classify(REFUSAL * 20)
    with make_client(server.grpc_address, ClientConfig(compression="deflate")) as client:
        assert client.classify(REFUSAL * 20) == compressed


def test_a_message_larger_than_allowed_is_told(server, make_client) -> None:
    small = ClientConfig(max_send_bytes=1000)
    too_large = pytest.raises(OverloadedError, match=r"larger than max \(\d+ vs. 1000\)")
    with make_client(server.grpc_address, small) as client, too_large:
        client.classify("x" * 2000)


def test_encrypted(encrypted, certificates, make_client) -> None:
    gateway, mutual = encrypted
    own = {"certificate_path": certificates / "client.pem", "private_key_path": certificates / "client.key"}
    tls = Tls(ca_path=certificates / "ca.pem", server_name="triton.test", **(own if mutual else {}))
    with make_client(gateway.address, ClientConfig(tls=tls)) as client:
        assert client.is_ready()
        assert client.classify(REFUSAL).token_count > 5


def test_the_name_looked_up_is_the_one_in_the_certificate(encrypted, certificates, make_client, monkeypatch) -> None:
    gateway, mutual = encrypted
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: real("127.0.0.1" if "test" in str(host) else host, *rest, **more),
    )
    own = {"certificate_path": certificates / "client.pem", "private_key_path": certificates / "client.key"}
    tls = Tls(ca_path=certificates / "ca.pem", **(own if mutual else {}))
    with make_client(f"triton.test:{gateway.port}", ClientConfig(tls=tls)) as client:
        assert client.is_ready()
    with make_client(f"other.test:{gateway.port}", ClientConfig(tls=tls)) as client:
        assert not client.is_ready()


@pytest.mark.parametrize("wrong", ["name", "authority", "certificate", "encryption"])
def test_what_does_not_fit_is_refused(encrypted, certificates, make_client, wrong) -> None:
    gateway, mutual = encrypted
    if wrong == "certificate" and not mutual:
        pytest.skip("asks for none")
    own = {"certificate_path": certificates / "client.pem", "private_key_path": certificates / "client.key"}
    tls = Tls(
        ca_path=None if wrong == "authority" else certificates / "ca.pem",
        server_name="other.test" if wrong == "name" else "triton.test",
        **(own if mutual and wrong != "certificate" else {}),
    )
    config = ClientConfig(tls=None if wrong == "encryption" else tls, timeout_s=5)
    with make_client(gateway.address, config) as client, pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1"):
        client.classify(REFUSAL)
    assert gateway.metadata == []


def test_a_wrong_token_is_told(server, make_client) -> None:
    class Guarded(Gateway):
        def service(self, call):
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
