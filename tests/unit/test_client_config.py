"""The configuration: what it refuses, and what gRPC is told of it."""

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import grpc
import pytest

from rejection_client import ClientConfig, RejectionClient, RejectionError, Tls
from rejection_client._config import checked_metadata, read_token
from rejection_client.channels import Connector, open_channels

TRITON_SHORTEST_PING_INTERVAL_MS = 300_000


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        ClientConfig().timeout_s = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("name", [field.name for field in fields(ClientConfig) if field.name.endswith("_s")])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_times_are_finite_and_positive(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        ClientConfig(**{name: value})  # type: ignore[arg-type]  # any field


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", ""),
        ("max_concurrent_requests", 0),
        ("max_texts_per_request", 0),
        ("max_attempts", 0),
        ("retry_ratio", 1.1),
        ("retry_ratio", -0.1),
        ("retry_reserve", -1),
        ("max_send_bytes", 0),
        ("max_receive_bytes", 2**31),
        ("compression", "zip"),
        ("metadata", {"grpc-timeout": "1"}),
        ("metadata", {"a b": "1"}),
        ("metadata", {"x-bin": "1"}),
        ("metadata", {"x": "é"}),
        ("metadata", {"x": "a\nb"}),
        ("token", "a\nb"),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match="authorization" if name == "token" else name):
        ClientConfig(**{name: value})  # type: ignore[arg-type]  # any field


def test_metadata_is_sent_in_lower_case() -> None:
    assert checked_metadata({"X-Tenant": "a", "traceparent": "00-b"}) == (("x-tenant", "a"), ("traceparent", "00-b"))


def test_secrets_are_not_shown() -> None:
    shown = repr(ClientConfig(token="hush-hush", metadata={"x-key": "hush-hush"}))
    assert "hush" not in shown


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan")])
def test_a_timeout_of_one_call_is_checked_too(timeout_s: float) -> None:
    with RejectionClient() as client, pytest.raises(ValueError, match="timeout_s"):
        client.classify("text", timeout_s=timeout_s)


def test_triton_takes_the_keepalive() -> None:
    """By its defaults it closes a connection that is tested more often, or without a call under way."""
    options = dict(Connector(ClientConfig()).options)
    assert int(options["grpc.keepalive_time_ms"]) >= TRITON_SHORTEST_PING_INTERVAL_MS
    assert options["grpc.keepalive_permit_without_calls"] == 0


def test_sizes_and_compression_reach_the_channel() -> None:
    connector = Connector(ClientConfig(max_send_bytes=1000, compression="gzip"))
    options = dict(connector.options)
    assert options["grpc.max_send_message_length"] == 1000
    assert options["grpc.max_receive_message_length"] == -1
    assert connector.compression is grpc.Compression.Gzip


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ValueError, match="go together"):
        Tls(certificate_path="client.pem")


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for path, why in (("none.pem", "No such file"), ("empty.pem", "not a PEM file")):
        with pytest.raises(ValueError, match=rf"ca_path .*{path}.* {why}"):
            RejectionClient(config=ClientConfig(tls=Tls(ca_path=tmp_path / path)))


def test_a_token_comes_from_the_first_line_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("\n first-token \nsecond\n")
    assert read_token(file) == "first-token"
    file.write_text("\n")
    with pytest.raises(ValueError, match=r"the token file .*/tokens is empty"):
        read_token(file)
    with pytest.raises(ValueError, match=r"the token file .*/none cannot be read: No such file or directory"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize(
    ("url", "tls", "warns"),
    [
        ("127.0.0.1:1", None, False),
        ("[::1]:1", None, False),
        ("unix:/run/it", None, False),
        ("192.0.2.1:1", Tls(), False),
        ("192.0.2.1:1", None, True),
        ("127.0.0.1:1,[2001:db8::1]:1", None, True),
    ],
)
def test_a_token_that_can_be_read_on_the_way_is_told_of(
    url: str, tls: Tls | None, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for channel in open_channels(url, ClientConfig(token="a-token", tls=tls)):
        channel.close()
    assert ["travels unencrypted" in message for message in caplog.messages] == [True] * warns
    assert "a-token" not in caplog.text


def test_a_client_tells_it_once(caplog: pytest.LogCaptureFixture) -> None:
    with RejectionClient("192.0.2.1:1", ClientConfig(token="a-token", timeout_s=0.01)) as client:
        for _ in range(2):
            with pytest.raises(RejectionError):
                client.classify("a")
    assert sum("travels unencrypted" in message for message in caplog.messages) == 1
