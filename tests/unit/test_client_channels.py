"""From a URL to channels: what an address is, where it leads, and how many connections are made."""

import socket

import pytest

from rejection_client import ClientConfig
from rejection_client.channels import Address, call_metadata, is_loopback, open_channels, parse_url


@pytest.mark.parametrize(
    ("url", "targets"),
    [
        ("127.0.0.1:8001", [("127.0.0.1:8001", "ipv4:127.0.0.1:8001")]),
        ("[::1]:80", [("[::1]:80", "ipv6:[::1]:80")]),
        ("a:1, b:2,a:1", [("a:1", None), ("b:2", None)]),
        (["a:1", "b:2"], [("a:1", None), ("b:2", None)]),
        ("dns:///a.b:1", [("a.b:1", None)]),
        ("ipv4:1.2.3.4:5,1.2.3.4:6", [("1.2.3.4:5", "ipv4:1.2.3.4:5"), ("1.2.3.4:6", "ipv4:1.2.3.4:6")]),
        ("unix:/run/triton", [("unix:/run/triton", "unix:/run/triton")]),
        ("dns://8.8.8.8/a:1", [("dns://8.8.8.8/a:1", "dns://8.8.8.8/a:1")]),
    ],
)
def test_addresses_are_read(url: str | list[str], targets: list[tuple[str, str | None]]) -> None:
    found = [(target.name, target.literal()) for target in parse_url(url)]
    assert [(name, address and address.target) for name, address in found] == targets


def test_a_looked_up_address_keeps_the_name_for_the_certificate() -> None:
    (target,) = parse_url("triton.example:8001")
    assert target.at("10.0.0.1") == Address("ipv4:10.0.0.1:8001", "triton.example:8001")
    assert target.at("fe80::1").target == "ipv6:[fe80::1]:8001"


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("127.0.0.1:8001", True),
        ("[::1]:8001", True),
        ("localhost:8001", True),
        ("unix:/run/triton", True),
        ("10.0.0.1:8001", False),
        ("0.0.0.0:8001", False),
        ("dns://127.0.0.1/localhost:8001", False),
    ],
)
def test_loopback_is_known_by_every_address(url: str, loopback: bool) -> None:
    (target,) = parse_url(url)
    assert is_loopback(target) is loopback


def test_a_name_with_one_address_elsewhere_is_not_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(0, 0, 0, "", (ip, 8001)) for ip in ("127.0.0.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    (target,) = parse_url("some.test:8001")
    assert not is_loopback(target)


def test_a_name_without_addresses_is_told() -> None:
    (target,) = parse_url("no-such-host.invalid:8001")
    with pytest.raises(ValueError, match=r"'no-such-host\.invalid' cannot be looked up"):
        is_loopback(target)
    with pytest.raises(OSError, match=r"."):
        open_channels("no-such-host.invalid:8001")


@pytest.mark.parametrize(("count", "made"), [(1, 2), (2, 2), (5, 5)])
def test_each_server_has_a_channel_and_there_are_as_many_as_wanted(count: int, made: int) -> None:
    channels = open_channels("127.0.0.1:1,127.0.0.2:1", count=count)
    assert len(channels) == made
    for channel in channels:
        channel.close()


def test_the_token_is_sent_with_the_metadata() -> None:
    config = ClientConfig(token="secret", metadata={"X-Tenant": "a"})
    assert call_metadata(config) == (("x-tenant", "a"), ("authorization", "Bearer secret"))
