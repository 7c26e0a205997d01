"""gRPC channels as the configuration wants them."""

from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc

from rejection_client._addresses import Address
from rejection_client._config import ClientConfig, Tls

_COMPRESSION = {
    "none": grpc.Compression.NoCompression,
    "deflate": grpc.Compression.Deflate,
    "gzip": grpc.Compression.Gzip,
}


class Settings(NamedTuple):
    """What every channel of one client is made with."""

    options: tuple[tuple[str, int | str], ...]
    credentials: Any
    compression: Any
    server_name: str | None

    @classmethod
    def of(cls, config: ClientConfig) -> Self:
        """Read the certificates and translate the rest; raises ValueError for a file that cannot be read."""
        options = (
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
            # Otherwise two clients of one process would share a connection, and its troubles.
            ("grpc.use_local_subchannel_pool", 1),
        )
        compression = _COMPRESSION[config.compression]
        if config.tls is None:
            return cls(options, None, compression, None)
        return cls(options, _credentials(config.tls), compression, config.tls.server_name)

    def connect(self, address: Address, *, aio: bool) -> Any:
        """Make a channel, which connects at the first call."""
        module: Any = grpc.aio if aio else grpc
        # A name that was looked up here is still what a proxy, and the certificate, know the server by.
        options = [*self.options, ("grpc.default_authority", self.server_name or address.authority)]
        if self.credentials is None:
            return module.insecure_channel(address.target, options=options, compression=self.compression)
        name = self.server_name or _host(address.authority)
        options.append(("grpc.ssl_target_name_override", name))
        return module.secure_channel(address.target, self.credentials, options=options, compression=self.compression)


def _host(authority: str) -> str:
    return authority.rpartition(":")[0].strip("[]") or authority


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
