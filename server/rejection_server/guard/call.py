"""One call of a caller, and what its header fields say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from rejection_server.guard.methods import UNKNOWN, Kind, method_of
from rejection_server.guard.refusal import Refusal
from rejection_server.guard.session import Stream
from rejection_server.guard.settings import ADMIN_KEY
from rejection_server.guard.up import Exchange

if TYPE_CHECKING:
    from rejection_server.guard.down import Caller

__all__ = ["READ_BY_HEADER", "Call", "Conversation"]

MAX_EXTRA_BYTES = 1024
"""Longest value of a header that is passed on."""
_ODD = frozenset(b"%x" % digit for digit in range(1, 16, 2))
TIMEOUT_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Conversation:
    """What a call with more than one message does; see `stream`."""

    def came(self) -> None:
        """There is more in the call's body."""
        raise NotImplementedError

    def peer_ended(self) -> None:
        """Nothing follows in the call's body."""
        raise NotImplementedError

    def taken(self) -> None:
        """The caller took some of what was sent."""

    def closed(self) -> None:
        """The call is over, or its status is decided."""

    def is_late(self) -> bool:
        """Whether the caller is to go on, not the guard."""
        return False

    def stop(self) -> None:
        """The guard is stopping."""


class Call(Stream):
    """One call of a caller."""

    __slots__ = (
        "admin_key",
        "connection",
        "conversation",
        "deadline",
        "encoding",
        "exchange",
        "extra",
        "has_begun",
        "header_bytes",
        "held",
        "is_complete",
        "is_new",
        "method",
        "replied",
        "since",
        "token",
    )

    def __init__(self, stream_id: int, connection: Caller) -> None:
        super().__init__(stream_id)
        context = connection.context
        self.connection = connection
        self.since = context.now
        """When the caller last had to do something, by the context's clock."""
        self.is_new = context.is_stopping
        """Whether it began after the guard was told to stop."""
        self.deadline = math.inf
        """When the caller stops waiting, by the loop's clock."""
        self.method = UNKNOWN
        self.encoding = ""
        self.token = b""
        """What it shows as the token of its caller."""
        self.admin_key = b""
        """What it shows as the key of administration."""
        self.extra: tuple[tuple[bytes, bytes], ...] = ()
        self.header_bytes = 0
        self.held = 0
        """Bytes admitted for what is kept here: what arrived and did not go on, what was answered and not taken."""
        self.is_complete = False
        """Whether all that the caller has to say has arrived."""
        self.has_begun = False
        """Whether the headers of its answer are sent."""
        self.replied = False
        """Whether its status is decided."""
        self.exchange: Exchange | None = None
        self.conversation: Conversation | None = None

    @property
    def is_public_index(self) -> bool:
        """Whether it asks which models are public, as anybody may."""
        return self.method.kind is Kind.INDEX and not self.admin_key

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for an answer any more."""
        return self.closed or self.replied

    def answered(self, exchange: Exchange) -> None:
        """Triton's answer is the call's."""
        self.connection.pass_back(self, exchange)

    def refused(self, refusal: Refusal) -> None:
        """The guard's is."""
        self.connection.refuse(self, refusal)

    def taken(self) -> None:
        if self.conversation is not None:
            self.conversation.taken()


def _read_path(call: Call, _name: bytes, value: bytes) -> None:
    call.method = method_of(value)


def _read_encoding(call: Call, _name: bytes, value: bytes) -> None:
    call.encoding = value.decode("latin-1")


def _read_timeout(call: Call, _name: bytes, value: bytes) -> None:
    unit = TIMEOUT_UNITS.get(value[-1:])
    if unit is not None and len(value) <= 9 and value[:-1].isdigit():
        call.deadline = call.connection.loop.time() + int(value[:-1]) * unit


def _read_extra(call: Call, name: bytes, value: bytes) -> None:
    if len(value) <= MAX_EXTRA_BYTES and len(call.extra) < 3:
        call.extra = (*call.extra, (name, value))


def _read_trace(call: Call, name: bytes, value: bytes) -> None:
    """Pass a trace on if its caller samples it: Triton would make spans of any."""
    if value[52:53] == b"-" and value[54:55] in _ODD:
        _read_extra(call, name, value)


def _read_token(call: Call, _name: bytes, value: bytes) -> None:
    scheme, _, token = value.partition(b" ")
    if scheme.lower() == b"bearer":
        call.token = token.strip()


def _read_admin_key(call: Call, _name: bytes, value: bytes) -> None:
    call.admin_key = value


READ_BY_HEADER: dict[bytes, Callable[[Call, bytes, bytes], None]] = {
    b":path": _read_path,
    b"grpc-encoding": _read_encoding,
    b"grpc-timeout": _read_timeout,
    b"authorization": _read_token,
    ADMIN_KEY.encode(): _read_admin_key,
    b"triton_grpc_error": _read_extra,
    b"traceparent": _read_trace,
    b"tracestate": _read_extra,
}
