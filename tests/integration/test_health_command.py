"""`rejection-server health`, which images ask."""

import shutil
from pathlib import Path

import pytest

from bench.ports import free_ports
from integration.client_servers import make_certificates
from rejection_server.cli import main
from rejection_server.host import ServeOptions, Server
from support.repository import REPOSITORY


def test_a_server_that_is_ready(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["health", server.grpc_address]) == 0
    assert capsys.readouterr().out == f"{server.grpc_address} is ready\n"
    monkeypatch.setenv("REJECTION_GRPC_PORT", server.grpc_address.rpartition(":")[2])
    assert main(["health"]) == 0


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    assert main(["health", f"127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().err.startswith(f"rejection-server health: 127.0.0.1:{port} is not ready: UNAVAILABLE, ")


@pytest.mark.parametrize("option", ["--tls-cert", "--tls-key"])
def test_a_certificate_without_its_key(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["health", option, "client.pem"])
    assert caught.value.code == 2
    assert "--tls-cert and --tls-key go together" in capsys.readouterr().err


def test_a_server_that_speaks_tls_and_wants_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificates with the command openssl, which is not installed")
    make_certificates(tmp_path)
    (tmp_path / "tokens").write_text("a-token-that-nobody-guesses\n")
    (tmp_path / "tokens").chmod(0o600)
    options = ServeOptions(
        repository=REPOSITORY,
        grpc_port=0,
        metrics_port=None,
        cores=1,
        tls_cert=tmp_path / "server.pem",
        tls_key=tmp_path / "server.key",
        token_file=tmp_path / "tokens",
    )
    with Server(options) as server:
        assert main(["health", server.grpc_address]) == 1
        trusting = ["health", server.grpc_address, "--tls-ca", str(tmp_path / "ca.pem")]
        assert main(trusting) == 1, "the certificate is for another name"
        assert main([*trusting, "--server-name", "triton.test"]) == 0
        assert main(["health", server.grpc_address, "--tls-ca", str(tmp_path / "nothing.pem")]) == 1
        assert "nothing.pem cannot be read (No such file or directory)" in capsys.readouterr().err
