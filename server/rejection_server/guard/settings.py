"""What a guard can be told, and how much memory it takes at most.

Its memory is bounded by what is counted, `memory_bytes`: requests under way and answers that are not taken
(`max_bytes`, and a quarter more for how they are kept), the one request that is being inflated, taken apart and put
together again (six times `max_message_bytes`), what a connection has of its own (256 KiB, most of it answers that its
peer does not read), a call's header fields and state (8 KiB), and 80 MiB for Python and its libraries.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ADMIN_KEY", "UNIX", "GuardSettings", "ModelLimits", "SettingsError"]

UNIX = "unix:"
"""What the address of a socket in the file system begins with."""
ADMIN_KEY = "triton-grpc-protocol-admin-key"
"""The header that carries the key of administration, here as in Triton's restricted protocols."""
_MEBIBYTE = 1 << 20
OF_MODELS = ("max_requests", "max_upstream_requests", "max_upstream_long")
SHARED = (*OF_MODELS, "max_connections", "max_connections_per_peer", "max_all_streams")
"""Bounds of which each of several guards has its part; that of bytes is the other one."""


class SettingsError(ValueError):
    """A setting is unknown, missing or of the wrong type; the message names it."""


@dataclass(frozen=True, kw_only=True)
class ModelLimits:
    """Bounds of one public model."""

    max_requests: int
    """Its inference requests under way."""
    max_upstream_requests: int
    """Those of them that Triton has at a time."""
    max_upstream_long: int
    """Those of these with much text."""
    read_bytes: int = 2048
    """Bytes of a text that count as text: no more is read. So many give some 512 tokens."""


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """Where a guard listens, what it stands in front of, and its bounds; times are in seconds."""

    upstream: str
    """Triton's gRPC service: HOST:PORT, or unix:PATH of a socket."""
    public_models: tuple[str, ...]
    """The models that may be asked for inference."""
    host: str = "127.0.0.1"
    """Name or address to listen on."""
    port: int = 0
    """Port to listen on; 0 takes a free one."""
    listen_fd: int | None = None
    """Descriptor of a listening socket that was inherited, in place of `host` and `port`."""
    reuse_port: bool = False
    """Whether several guards share the port, each taking its part of the connections."""

    processes: int = 1
    """Guards in all, on as many cores, which share the port and the bounds below."""

    labels: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Labels of public models, of whose answers each text's most probable one is counted."""
    measures_parent: bool = False
    """Whether the memory of all that the guard's parent started is published."""

    upstream_connections: int = 2
    """Connections to Triton; its gRPC service handles each by one of its threads."""
    upstream_admin_key: str | None = None
    """What opens Triton's own administration (`ADMIN_KEY`); it goes with calls of administration, and with the guard's
    own question which models are ready."""

    models: dict[str, ModelLimits] = dataclasses.field(default_factory=dict)
    """Bounds of public models, so that what one is asked for takes no room from another; else those below hold."""
    max_requests: int = 512
    """Inference requests under way, those that wait in the guard and those that Triton has."""
    max_bytes: int = 256 * _MEBIBYTE
    """Bytes of all requests under way, those still arriving included."""
    max_upstream_requests: int = 256
    """Inference requests that Triton has at a time; the others wait here and are dropped if their caller leaves.
    To keep every instance busy with requests of one text it takes a batch for each instance of tokenizer and
    classifier, and as many that wait: 64 x 2 x 2."""
    max_upstream_long: int = 1
    """Of these, requests with much text: so many texts of full length that one takes all cores for a second or more, or
    over 4 MiB. They go one after the other, so that one instance is left for the others' requests."""
    max_message_bytes: int = 65 * _MEBIBYTE
    """Bytes of one request, decompressed: 64 texts of 1 MiB and what is around them fit by default."""
    max_elements: int = 4096
    """Elements of a BYTES tensor, each of which is checked."""
    max_connections: int = 4096
    """Connections of callers."""
    max_connections_per_peer: int = 2560
    """Connections of callers of one address, IPv6 by its first 64 bits."""
    max_streams: int = 1024
    """Calls at a time of one connection."""
    max_all_streams: int = 16384
    """Calls at a time of all connections."""
    max_header_bytes: int = 16384
    """Bytes of a call's metadata, each name and value counted with 32 bytes more, as HTTP/2 does."""
    max_stream_messages: int = 64
    """Messages of a ModelStreamInfer under way; the next ones are not read before."""
    reset_burst: int = 5000
    """Calls that one connection may cancel at once."""
    reset_rate: int = 500
    """Calls that one connection may cancel each second."""

    handshake_timeout_s: float = 10.0
    """Time for TLS and the first frame of HTTP/2."""
    receive_timeout_s: float = 60.0
    """Time in which a request has to arrive."""
    write_timeout_s: float = 30.0
    """How long a peer may take nothing of what was sent to it."""
    idle_timeout_s: float = 1800.0
    """How long a connection without calls is kept."""
    live_timeout_s: float = 3.0
    """After how long without an answer of Triton to "are you alive?" an event says so."""
    drain_timeout_s: float = 30.0
    """How long the calls under way may take when the guard stops."""

    tls_cert: Path | None = None
    """PEM file with the certificate and its chain; with it, callers have to speak TLS."""
    tls_key: Path | None = None
    """PEM file with the certificate's private key."""
    tls_client_ca: Path | None = None
    """PEM file with the authorities whose client certificates are let in; None asks for none."""
    token_file: Path | None = None
    """File of tokens, one a line, of which callers have to show one, save for health; None asks for none."""
    admin_key_file: Path | None = None
    """File with the key (`ADMIN_KEY`) that opens administration; None opens it to nobody."""
    reread_s: float = 2.0
    """How often all of these files are looked at, to be read again when they changed."""

    metrics_port: int | None = None
    """Port for metrics in Prometheus' text format, GET /metrics; 0 takes a free one, None leaves them out."""
    metrics_host: str = "127.0.0.1"
    """Name or address to listen on for it."""
    upstream_metrics: str | None = None
    """Triton's own metrics, to publish together with the guard's: a URL such as http://127.0.0.1:8002/metrics, or
    unix:PATH of a socket."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if unknown := self.models.keys() - set(self.public_models):
            raise SettingsError(f"models has bounds of '{min(unknown)}', which is none of public_models")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("tls_cert and tls_key belong together: give both or neither")
        if self.upstream_metrics is not None and not self.upstream_metrics.startswith(("http://", UNIX)):
            raise SettingsError(
                f"upstream_metrics '{self.upstream_metrics}' is neither a URL that begins with http:// nor unix:PATH"
            )
        if not (self.upstream.startswith(UNIX) or self.upstream.rpartition(":")[2].isdigit()):
            raise SettingsError(f"upstream '{self.upstream}' is neither HOST:PORT nor unix:PATH")
        if self.processes < 1:
            raise SettingsError(f"processes is {self.processes}; at least 1 is needed")
        if self.processes > 1 and self.listen_fd is not None:
            raise SettingsError("several guards share a port, not a socket: leave out listen_fd")

    @property
    def share(self) -> GuardSettings:
        """What each of several guards is told: its part of the bounds, none so small that nothing would pass."""

        def part(bounds: object, names: Sequence[str]) -> dict[str, Any]:
            return {name: max(1, getattr(bounds, name) // self.processes) for name in names}

        models = {name: dataclasses.replace(of, **part(of, OF_MODELS)) for name, of in self.models.items()}
        most = max(self.max_message_bytes, self.max_bytes // self.processes)
        shared = part(self, SHARED)
        return dataclasses.replace(self, **shared, models=models, max_bytes=most, processes=1, reuse_port=True)

    def limits(self, model: str) -> ModelLimits:
        """The bounds of a model."""
        return self.models.get(model) or ModelLimits(
            max_requests=self.max_requests,
            max_upstream_requests=self.max_upstream_requests,
            max_upstream_long=self.max_upstream_long,
        )

    @property
    def memory_bytes(self) -> int:
        """Most memory that the guards with these settings take, whatever their callers do."""
        if self.processes > 1:
            return self.processes * self.share.memory_bytes
        requests = self.max_bytes * 5 // 4 + 6 * self.max_message_bytes
        return 80 * _MEBIBYTE + requests + self.max_connections * (1 << 18) + self.max_all_streams * (1 << 13)

    def to_json(self) -> str:
        """One line that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, line: str) -> GuardSettings:
        """Read settings; raises SettingsError naming what is wrong."""
        try:
            given = json.loads(line)
        except ValueError as exc:
            raise SettingsError(f"the settings are not a line of JSON: {exc}") from exc
        if not isinstance(given, dict):
            raise SettingsError("the settings are not a JSON object")
        made: GuardSettings = _made(cls, given)
        return made


def _made(kind: type[Any], given: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    if unknown := given.keys() - hints.keys():
        raise SettingsError(f"there is no setting '{min(unknown)}'")
    try:
        return kind(**{name: _read(name, value, hints[name]) for name, value in given.items()})
    except TypeError as exc:
        raise SettingsError(str(exc).partition("() ")[2]) from exc


def _read(name: str, value: object, hint: object) -> object:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list) and all(isinstance(part, str) for part in value):
        return tuple(value)
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        inner = typing.get_args(hint)[1]
        return {key: _read(name, part, inner) for key, part in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _made(typing.cast("type[Any]", hint), value)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) not in kinds:
        raise SettingsError(f"setting '{name}' is {value!r}, which is not of its type")
    return value
