"""From what a person gives as the address to the addresses that are connected to."""

import ipaddress
from collections.abc import Sequence
from typing import NamedTuple

_OTHER_SCHEMES = ("http", "https", "grpc", "grpcs", "tcp")
DEFAULT_URL = "127.0.0.1:8001"


class Target(NamedTuple):
    """One address as given: a name to look up, or what gRPC connects to as it stands."""

    name: str
    """HOST:PORT, for messages and for the certificate's name."""

    host: str | None
    """Name to look up; None for what needs no look-up."""

    port: int


class Address(NamedTuple):
    """One server to connect to."""

    target: str
    """In gRPC's form, such as `ipv4:10.0.0.1:8001`."""

    authority: str
    """HOST:PORT as the person gave it, which the server's certificate must carry."""


def parse(url: str | Sequence[str]) -> tuple[Target, ...]:
    """Read one address, several with commas between them, or a sequence. Raises ValueError for what is no address."""
    parts = [url] if isinstance(url, str) else list(url)
    given = [piece.strip() for part in parts for piece in part.split(",")]
    if not given or "" in given:
        raise ValueError(f"url is empty; give the server's gRPC address, such as '{DEFAULT_URL}'")
    return tuple(dict.fromkeys(_parse_one(part) for part in given))


def _parse_one(url: str) -> Target:
    scheme, separator, address = url.partition("://")
    if separator and scheme.lower() in _OTHER_SCHEMES:
        raise ValueError(f"url '{url}' has a scheme; give the gRPC address alone: '{address}'")
    if url.startswith("unix:") or (separator and not url.startswith("dns:///")):
        return Target(url, None, 0)
    name = url.removeprefix("dns:///").removeprefix("dns:").removeprefix("ipv4:").removeprefix("ipv6:")
    host, _, port = name.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 or ("[" in host) != ("]" in host):
        raise ValueError(f"url '{url}' is not HOST:PORT, such as '{DEFAULT_URL}'")
    if ":" in host and not host.startswith("["):
        raise ValueError(f"url '{url}' is ambiguous; write the IPv6 address in brackets: '[{host}]:{port}'")
    return Target(name, host.strip("[]"), int(port))


def literal(target: Target) -> Address | None:
    """The address of a target that needs no look-up, None for a name."""
    if target.host is None:
        return Address(target.name, "localhost" if target.name.startswith("unix:") else target.name)
    try:
        return numeric(target, target.host)
    except ValueError:
        return None


def numeric(target: Target, ip: str) -> Address:
    """One IP address of a target; raises ValueError if `ip` is none."""
    address = ipaddress.ip_address(ip)
    form = f"ipv4:{ip}:{target.port}" if address.version == 4 else f"ipv6:[{ip}]:{target.port}"
    return Address(form, target.name)
