"""What a guard can be told, once each for real: TLS, client certificates, an inherited socket, metrics."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from integration.client_servers import make_certificates
from integration.guard_process import GuardProcess, frozen, under_way
from support.kserve import Wire, arrays, request

NAME = [("grpc.ssl_target_name_override", "triton.test")]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificates with the command openssl, which is not installed")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=[False, True], ids=["TLS", "mutual TLS"])
def secure(request: Any, triton: Any, certificates: Path) -> Iterator[tuple[GuardProcess, bool]]:
    with GuardProcess(
        triton.grpc_address,
        tls_cert=certificates / "server.pem",
        tls_key=certificates / "server.key",
        tls_client_ca=certificates / "ca.pem" if request.param else None,
        handshake_timeout_s=2,
    ) as guard:
        yield guard, request.param


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True


def ask(address: str, credentials: Any) -> Any:
    with grpc.secure_channel(address, credentials, options=NAME) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        big = request(["word " * 40_000], max_length=8)
        assert arrays(stub.ModelInfer(big, timeout=60))["token_count"][0, 0] >= 2048
        return arrays(stub.ModelInfer(request(["a"]), timeout=60))


def test_callers_speak_tls(secure: tuple[GuardProcess, bool], certificates: Path) -> None:
    guard, is_mutual = secure
    ca, key, certificate = (certificates.joinpath(f).read_bytes() for f in ("ca.pem", "client.key", "client.pem"))
    assert ask(guard.address, grpc.ssl_channel_credentials(ca, key, certificate))["logits"].shape == (1, 2)
    if is_mutual:
        with pytest.raises(grpc.RpcError) as caught:
            ask(guard.address, grpc.ssl_channel_credentials(ca))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    else:
        assert ask(guard.address, grpc.ssl_channel_credentials(ca))["logits"].shape == (1, 2)


def test_who_does_not_speak_it_is_let_go(secure: tuple[GuardProcess, bool], certificates: Path) -> None:
    guard, is_mutual = secure
    with pytest.raises(grpc.RpcError) as caught:
        Wire(guard.address).infer(["a"])
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with socket.create_connection(("127.0.0.1", guard.port), 20) as silent:
        assert is_closed(silent)
    if not is_mutual:
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        context.set_alpn_protocols(["http/1.1"])
        raw = socket.create_connection(("127.0.0.1", guard.port), 20)
        with raw, context.wrap_socket(raw, server_hostname="triton.test") as other:
            with contextlib.suppress(ConnectionError):
                other.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert is_closed(other)


def test_calls_under_way_over_tls_are_answered_when_it_stops(triton: Any, certificates: Path) -> None:
    with GuardProcess(
        triton.grpc_address, tls_cert=certificates / "server.pem", tls_key=certificates / "server.key"
    ) as guard:
        credentials = grpc.ssl_channel_credentials(certificates.joinpath("ca.pem").read_bytes())
        with grpc.secure_channel(guard.address, credentials, options=NAME) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with frozen(triton.pid):
                pending = stub.ModelInfer.future(request(["a"]), timeout=60)
                assert under_way(guard, 1)
                guard.request_stop("SIGTERM")
            assert arrays(pending.result())["logits"].shape == (1, 2)
            assert guard.process.wait(30) == 0


def test_a_socket_is_inherited(triton: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with GuardProcess(triton.grpc_address, listen_fd=listening.fileno()) as guard:
            assert guard.port == port
            assert Wire(guard.address).infer(["a"])["logits"].shape == (1, 2)


# --- metrics -------------------------------------------------------------------------------------------------------


def fetch(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_one_port_publishes_the_metrics_of_both(triton: Any) -> None:
    with GuardProcess(triton.grpc_address, metrics_port=0, upstream_metrics=triton.metrics_address) as guard:
        port = guard.ready["metrics_port"]
        wire = Wire(guard.address)
        wire.infer(["a"])
        wire.error(request(["a"], model="tokenizer"))
        wire.error(request(["a", "b"], shape=[1, 1]))
        status, text = fetch(port)
        assert status == 200
        lines = text.splitlines()
        assert any(line.startswith("nv_inference_request_success{") for line in lines)
        for line in [
            'rejection_guard_requests_total{method="ModelInfer",code="OK"} 1',
            'rejection_guard_requests_total{method="ModelInfer",code="PERMISSION_DENIED"} 1',
            'rejection_guard_inferences_total{model="rejection"} 1',
            'rejection_guard_refused_total{reason="forbidden"} 1',
            'rejection_guard_refused_total{reason="invalid"} 1',
            "rejection_guard_cancelled_total 0",
            "rejection_guard_connections 1",
            'rejection_guard_requests_under_way{model="rejection"} 0',
        ]:
            assert line in lines
        assert fetch(port, "/") == (404, "only /metrics is here\n")
        assert fetch(port, method="DELETE") == (405, "only GET is known here\n")
        assert wire.infer(["a"])["logits"].shape == (1, 2)


def test_metrics_are_bounded_and_do_without_triton() -> None:
    with GuardProcess("127.0.0.1:9", metrics_port=0, upstream_metrics="http://127.0.0.1:9/metrics") as guard:
        port = guard.ready["metrics_port"]
        idle = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(17)]
        assert is_closed(idle[-1])
        with socket.create_connection(("127.0.0.1", port), 20) as one_more:
            assert is_closed(one_more)
        for one in idle:
            one.close()
        while True:
            try:
                status, text = fetch(port)
                break
            except ConnectionError:  # until it has noticed that they are gone
                continue
        assert status == 200
        assert text.startswith("# HELP rejection_guard_requests_total")
        with socket.create_connection(("127.0.0.1", port), 20) as large:
            large.sendall(b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 20_000)
            assert is_closed(large)
