"""gRPC channels to servers named by a URL: addresses, name look-up, credentials and options, from a `ClientConfig`.

The clients here stand on this module, and so may any caller that wants bare gRPC stubs, several connections to one
server (an HTTP/2 connection carries only so many requests a second), or to know where a URL leads before it calls.
"""

import ipaddress
import logging
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from rejection_client._config import DEFAULT_URL, ClientConfig, Tls, checked_metadata

_log = logging.getLogger("rejection_client")

_OTHER_SCHEMES = ("http", "https", "grpc", "grpcs", "tcp")
_COMPRESSION = {
    "none": grpc.Compression.NoCompression,
    "deflate": grpc.Compression.Deflate,
    "gzip": grpc.Compression.Gzip,
}


class Address(NamedTuple):
    """One server to connect to."""

    target: str
    """In gRPC's form, such as `ipv4:10.0.0.1:8001`."""

    authority: str
    """HOST:PORT as the person gave it, which the server's certificate must carry."""


class Target(NamedTuple):
    """One part of a URL: a name to look up, or what gRPC connects to as it stands."""

    name: str
    """HOST:PORT, for messages and for the certificate's name."""

    host: str | None
    """Name or IP address; None for what gRPC alone understands, such as `unix:PATH`."""

    port: int

    def literal(self) -> Address | None:
        """The address of what needs no look-up, None for a name."""
        if self.host is None:
            return Address(self.name, "localhost" if self.name.startswith("unix:") else self.name)
        try:
            return self.at(self.host)
        except ValueError:
            return None

    def at(self, ip: str) -> Address:
        """The address with this IP in the name's place; raises ValueError if `ip` is none."""
        version = ipaddress.ip_address(ip).version
        return Address(f"ipv4:{ip}:{self.port}" if version == 4 else f"ipv6:[{ip}]:{self.port}", self.name)

    def look_up(self) -> list[Address]:
        """Every address of the target, blocking while a name is looked up; raises OSError."""
        literal = self.literal()
        if literal is not None:
            return [literal]
        return [self.at(ip) for ip in ip_addresses(socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))]


def ip_addresses(found: Sequence[tuple[Any, ...]]) -> list[str]:
    """The addresses in what `getaddrinfo` found, each once, in an order that does not change with each answer."""
    return sorted({str(entry[4][0]) for entry in found})


def parse_url(url: str | Sequence[str]) -> tuple[Target, ...]:
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


def is_loopback(target: Target) -> bool:
    """Whether a target is this machine alone, by every address of it; blocks while a name is looked up.

    Raises ValueError for a name that cannot be looked up.
    """
    if target.host is None:
        return target.name.startswith("unix:")
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"the name '{target.host}' cannot be looked up: {error.strerror}") from error
    return all(ipaddress.ip_address(ip.partition("%")[0]).is_loopback for ip in ip_addresses(found))


def call_metadata(config: ClientConfig) -> tuple[tuple[str, str], ...]:
    """What the configuration wants sent with every call: its metadata, and the token."""
    token = {} if config.token is None else {"authorization": f"Bearer {config.token}"}
    return checked_metadata({**config.metadata, **token})


def warn_of_readable_token(config: ClientConfig, addresses: Iterable[Address]) -> bool:
    """Log a warning if a token goes to another machine in the clear; returns whether it does."""
    if config.token is None or config.tls is not None:
        return False
    for address in addresses:
        scheme, _, rest = address.target.partition(":")
        host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
        if scheme != "unix" and not (scheme in ("ipv4", "ipv6") and ipaddress.ip_address(host).is_loopback):
            _log.warning(
                "the token for %s travels unencrypted and can be read on the way; use TLS, or a proxy on this machine "
                "that does",
                address.authority,
            )
            return True
    return False


def open_channels(
    url: str | Sequence[str], config: ClientConfig | None = None, *, count: int = 1, aio: bool = False
) -> list[Any]:
    """Make at least `count` separate connections, in turns over the servers that `url` stands for, one each at least.

    They are `grpc.Channel`, or `grpc.aio.Channel` with `aio`, and connect at their first call. Blocks while names are
    looked up. Raises ValueError for what is no address or certificate, OSError for a name that cannot be looked up.
    """
    connector = Connector(config or ClientConfig())
    addresses = [address for target in parse_url(url) for address in target.look_up()]
    if config is not None:
        warn_of_readable_token(config, addresses)
    return [connector.connect(addresses[n % len(addresses)], aio=aio) for n in range(max(count, len(addresses)))]


class Connector:
    """Makes channels with the options and credentials of one configuration."""

    def __init__(self, config: ClientConfig) -> None:
        """Read the certificates and translate the rest; raises ValueError for a file that cannot be read."""
        self.options: tuple[tuple[str, int | str], ...] = (
            ("grpc.max_send_message_length", config.max_send_bytes or -1),
            ("grpc.max_receive_message_length", config.max_receive_bytes or -1),
            ("grpc.keepalive_time_ms", round(1000 * config.keepalive_time_s)),
            ("grpc.keepalive_timeout_ms", round(1000 * config.keepalive_timeout_s)),
            # Triton closes connections that are tested while no call is under way.
            ("grpc.keepalive_permit_without_calls", 0),
            # Which server gets a request, and whether it is sent again, is decided here and not in gRPC.
            ("grpc.enable_retries", 0),
            ("grpc.lb_policy_name", "pick_first"),
            # A server that comes back is seen soon, not after gRPC's two minutes.
            ("grpc.initial_reconnect_backoff_ms", round(1000 * config.backoff_initial_s)),
            ("grpc.max_reconnect_backoff_ms", round(1000 * max(config.backoff_initial_s, config.backoff_max_s))),
            # Otherwise two channels of one process would share a connection, and its troubles.
            ("grpc.use_local_subchannel_pool", 1),
        )
        self.compression = _COMPRESSION[config.compression]
        self._credentials = None if config.tls is None else _credentials(config.tls)
        self._server_name = None if config.tls is None else config.tls.server_name

    def connect(self, address: Address, *, aio: bool) -> Any:
        """Make a channel, which connects at the first call."""
        module: Any = grpc.aio if aio else grpc
        # A name that was looked up here is still what a proxy, and the certificate, know the server by.
        options = [*self.options, ("grpc.default_authority", self._server_name or address.authority)]
        if self._credentials is None:
            return module.insecure_channel(address.target, options=options, compression=self.compression)
        name = self._server_name or address.authority.rpartition(":")[0].strip("[]") or address.authority
        options.append(("grpc.ssl_target_name_override", name))
        return module.secure_channel(address.target, self._credentials, options=options, compression=self.compression)


def _credentials(tls: Tls) -> Any:
    return grpc.ssl_channel_credentials(
        root_certificates=_pem("ca_path", tls.ca_path),
        private_key=_pem("private_key_path", tls.private_key_path),
        certificate_chain=_pem("certificate_path", tls.certificate_path),
    )


def _pem(name: str, path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{name} {path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN " not in raw:
        raise ValueError(f"{name} {path} is not a PEM file: it has no '-----BEGIN' line")
    return raw
