"""Which methods there are, and what the guard does with a call of each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from tritonclient.grpc import service_pb2

from rejection_server.guard.refusal import Code, Refusal, shown

__all__ = [
    "METADATA_PATH",
    "MODEL_INFER_PATH",
    "SERVER_LIVE_PATH",
    "SERVER_READY_PATH",
    "UNKNOWN",
    "Kind",
    "Method",
    "method_of",
]

_SERVICE = "/inference.GRPCInferenceService/"
_HEALTH = "/grpc.health.v1.Health/"

MODEL_INFER_PATH = f"{_SERVICE}ModelInfer".encode()
METADATA_PATH = f"{_SERVICE}ModelMetadata".encode()
SERVER_LIVE_PATH = f"{_SERVICE}ServerLive".encode()
SERVER_READY_PATH = f"{_SERVICE}ServerReady".encode()


class Kind(Enum):
    """What happens to a call."""

    PASSED = auto()
    """Its message goes to Triton as it is."""
    INFER = auto()
    """Its message is checked, admitted and goes to Triton."""
    STREAM = auto()
    """Each of its messages is checked, admitted and goes to Triton as a call of its own."""
    WATCH = auto()
    """The guard answers, again and again."""
    INDEX = auto()
    """The guard tells the public models that are ready; with the key of administration its message goes to Triton."""
    ADMIN = auto()
    """Its message goes to Triton if the caller has the key of administration."""
    REFUSED = auto()
    """Nobody outside may call this."""


@dataclass(frozen=True)
class Method:
    """A method of the gRPC services."""

    name: str
    """Its name in counts."""
    path: bytes
    """Its path in HTTP/2."""
    kind: Kind
    stopping: bytes | None = None
    """The message that answers a call while the guard is stopping; None refuses it."""

    @property
    def needs_token(self) -> bool:
        """Whether it is for callers with a token, where there are any; everybody may ask whether the server is well."""
        return self.name not in _HEALTH_METHODS

    def refusal(self) -> Refusal:
        """Why nobody outside may call it, or not with the key that was sent."""
        if self is UNKNOWN:
            return Refusal(Code.UNIMPLEMENTED, "the server does not have this method: see its protocol")
        if self.kind is Kind.INDEX:
            return Refusal(
                Code.PERMISSION_DENIED,
                f"the key sent is not this server's key of administration: leave it out, and {self.name} tells the "
                "public models",
            )
        why = "it would let one caller change what all others get"
        if self.kind is Kind.ADMIN:
            why += ", so it takes the key of administration"
        return Refusal(Code.PERMISSION_DENIED, f"{shown(self.name)} is not called from outside: {why}")


_NOT_READY = b""  # `ready: false` is what an empty message says
_NOT_SERVING = b"\x08\x02"
_OPEN = {
    "ServerLive": Kind.PASSED,
    "ServerReady": Kind.PASSED,
    "ModelReady": Kind.PASSED,
    "ServerMetadata": Kind.PASSED,
    "ModelMetadata": Kind.PASSED,
    "ModelConfig": Kind.PASSED,
    "ModelStatistics": Kind.PASSED,
    "ModelInfer": Kind.INFER,
    "ModelStreamInfer": Kind.STREAM,
    "RepositoryIndex": Kind.INDEX,
}
_ADMIN = ("RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings")
_HEALTH_METHODS = ("Check", "Watch", "ServerLive", "ServerReady")
_STOPPING = {"ServerLive": b"\x08\x01", "ServerReady": _NOT_READY, "ModelReady": _NOT_READY}

UNKNOWN = Method("unknown", b"", Kind.REFUSED)


def _all() -> dict[bytes, Method]:
    methods = [
        Method("Check", f"{_HEALTH}Check".encode(), Kind.PASSED, _NOT_SERVING),
        Method("Watch", f"{_HEALTH}Watch".encode(), Kind.WATCH),
    ]
    for described in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        name = described.name
        kind = Kind.ADMIN if name in _ADMIN else _OPEN.get(name, Kind.REFUSED)
        methods.append(Method(name, f"{_SERVICE}{name}".encode(), kind, _STOPPING.get(name)))
    return {method.path: method for method in methods}


_METHODS = _all()


def method_of(path: bytes) -> Method:
    """The method with this path."""
    return _METHODS.get(path, UNKNOWN)
