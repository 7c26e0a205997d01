"""From a failed RPC to this package's exception: one table, no network.

The kind of an error is read from its gRPC status code, with two exceptions, where only Triton's words tell which it
is: `NOT_FOUND` is what it says both of a name that it does not know and of a model that it unloads because it stops,
and `UNAVAILABLE` also of a method that is locked. Two facts beside the code are used:

- `UNAVAILABLE` is what gRPC says when it cannot connect, and what Triton says when its queue is full or it stops. The
  caller passes `is_live`: whether the server, asked right afterwards, answers that the model is ready: the queue was
  full. An answer of a moment before will do where the words speak of a queue (`says_full`).
- The row of a refused text is in the server's message, as `row N` (N from 0, within the request).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from grpc import StatusCode

from rejection_client.errors import (
    ROW,
    AccessDeniedError,
    DeadlineExceededError,
    InvalidInputError,
    ModelNotFoundError,
    OverloadedError,
    RejectionError,
    RequestCancelledError,
    ServerError,
    ServerUnavailableError,
    UnexpectedAnswerError,
)

NO_VERSION = "has no available versions"
"""Triton's words, with `NOT_FOUND`, for a model that it knows and cannot serve now: it is stopping, or exchanges it."""

RESTRICTED = "This protocol is restricted"
"""Triton's words, with `UNAVAILABLE`, for a method that takes a key."""

NOT_PUBLIC = "is not called from outside"
"""The guard's words, with `PERMISSION_DENIED`, for a part of a classifier: no credentials would help."""

_HANDSHAKE = re.compile("CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER")
"""Words of OpenSSL, with `UNAVAILABLE` and within gRPC's own: the server is not trusted, or has no TLS."""

_FULL = re.compile(r"\b(the queue is full|Exceeds maximum queue size|Request timeout expired)\b")
"""Words, with `UNAVAILABLE`, of a queue that is full or too slow: the guard's, and Triton's two."""

_NO_REQUEST_ID = re.compile(r"^\[request id: <id_unknown>\] ")


class Rule(NamedTuple):
    """Which exception a status becomes, and its message with {url}, {model}, {timeout_s} and {details} to fill in."""

    error: type[RejectionError]
    message: str


_SERVER_FAILED = Rule(ServerError, "the server at {url} failed: {details}; look for the reason in its log")
_REFUSED_FOR_NOW = Rule(
    OverloadedError, "the server at {url} is overloaded: {details}; send again after a while, or fewer texts at once"
)
_UNLOADED = Rule(
    ServerUnavailableError,
    "the server at {url} serves no version of '{model}' now: {details}; it is stopping, or the model was unloaded",
)
_DENIED = Rule(AccessDeniedError, "the server at {url} denies access: {details}; check the credentials you send")
_NOT_PUBLIC = Rule(AccessDeniedError, "the server at {url} denies access: {details}")
_NO_HANDSHAKE = Rule(
    ServerUnavailableError,
    "the TLS handshake with {url} failed: {details}; check the certificates (--ca), and that the server speaks TLS",
)
_BAD_INPUT = Rule(InvalidInputError, "the server refused the input: {details}")

RULES: dict[StatusCode, Rule] = {
    StatusCode.OK: Rule(UnexpectedAnswerError, "the server at {url} broke the gRPC protocol: {details}"),
    StatusCode.CANCELLED: Rule(
        RequestCancelledError,
        "the call to {url} was cancelled: {details}; the client was closed during the call, or a proxy ended it",
    ),
    StatusCode.UNKNOWN: _SERVER_FAILED,
    StatusCode.INVALID_ARGUMENT: _BAD_INPUT,
    StatusCode.DEADLINE_EXCEEDED: Rule(
        DeadlineExceededError,
        "no answer from {url} within {timeout_s:g} s; allow more time (timeout_s) or send fewer or shorter texts",
    ),
    StatusCode.NOT_FOUND: Rule(
        ModelNotFoundError,
        "the server at {url} does not serve '{model}': {details}; check the name (`rejection info` tells which there "
        "are), and that it has finished loading",
    ),
    StatusCode.ALREADY_EXISTS: _SERVER_FAILED,
    StatusCode.PERMISSION_DENIED: _DENIED,
    StatusCode.RESOURCE_EXHAUSTED: _REFUSED_FOR_NOW,
    StatusCode.FAILED_PRECONDITION: _SERVER_FAILED,
    StatusCode.ABORTED: _SERVER_FAILED,
    StatusCode.OUT_OF_RANGE: _BAD_INPUT,
    StatusCode.UNIMPLEMENTED: Rule(
        UnexpectedAnswerError,
        "{url} does not understand the call: {details}; check that it is the gRPC port of a Triton server",
    ),
    StatusCode.INTERNAL: _SERVER_FAILED,
    StatusCode.UNAVAILABLE: Rule(
        ServerUnavailableError, "cannot reach {url}: {details}; check the address, and that the server is running"
    ),
    StatusCode.DATA_LOSS: _SERVER_FAILED,
    StatusCode.UNAUTHENTICATED: _DENIED,
}
"""Every gRPC status code; `rule_of` knows the two that mean more than one thing."""


class Asked(NamedTuple):
    """What was asked of whom."""

    url: str
    model: str
    timeout_s: float
    rows: Sequence[int] | None = None
    """Indexes of the request's texts in the caller's sequence: the row in the message and in `InvalidInputError.row` is
    the caller's (the request's own, without)."""


def rule_of(code: StatusCode, details: str, *, is_live: bool = False) -> Rule:
    """What a failure means: the code's rule, save for a live server's `UNAVAILABLE` and what only the words tell."""
    if code is StatusCode.UNAVAILABLE and RESTRICTED in details:
        return _DENIED
    if code is StatusCode.PERMISSION_DENIED and NOT_PUBLIC in details:
        return _NOT_PUBLIC
    if code is StatusCode.UNAVAILABLE and _HANDSHAKE.search(details):
        return _NO_HANDSHAKE
    if code is StatusCode.UNAVAILABLE and is_live:
        return _REFUSED_FOR_NOW
    return _UNLOADED if code is StatusCode.NOT_FOUND and NO_VERSION in details else RULES[code]


def may_pass(code: StatusCode, details: str) -> bool:
    """Whether the same request may succeed a moment later, or at another server."""
    return rule_of(code, details).error is ServerUnavailableError


def says_full(code: StatusCode, details: str) -> bool:
    """Whether the failure speaks of a queue, and so not of a server that stops, is gone or was cut off."""
    return code is StatusCode.UNAVAILABLE and _FULL.search(details) is not None


def error_from_status(code: StatusCode, details: str, asked: Asked, *, is_live: bool = False) -> RejectionError:
    """Make the exception for a failed RPC."""
    rule = rule_of(code, details, is_live=is_live)
    details = _NO_REQUEST_ID.sub("", details) or f"status {code.name}"
    if rule.error is not InvalidInputError:
        return rule.error(rule.message.format(**asked._asdict(), details=details))
    found = ROW.search(details)
    row = None if found is None else int(found[1])
    if row is not None and asked.rows is not None:
        row = asked.rows[row] if row < len(asked.rows) else None
    if row is not None:
        details = ROW.sub(f"row {row}", details, count=1)
    return InvalidInputError(rule.message.format(details=details), row)
