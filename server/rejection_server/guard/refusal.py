"""A gRPC status other than OK: its code, its sentence, and how these travel in HTTP/2 headers."""

from __future__ import annotations

import re
from enum import IntEnum
from urllib.parse import unquote_to_bytes

__all__ = ["REASONS", "Code", "Refusal", "percent_decoded", "percent_encoded", "shown", "stopping"]

_SHOWN_CHARACTERS = 80
_ENCODED = re.compile(rb"[^\x20-\x24\x26-\x7e]")


class Code(IntEnum):
    """The gRPC status codes that the guard itself gives, and those it counts under their names."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


REASONS = {
    Code.INVALID_ARGUMENT: "invalid",
    Code.DEADLINE_EXCEEDED: "late",
    Code.PERMISSION_DENIED: "forbidden",
    Code.RESOURCE_EXHAUSTED: "too_large",
    Code.UNIMPLEMENTED: "unknown_method",
    Code.UNAVAILABLE: "full",
    Code.UNAUTHENTICATED: "unauthenticated",
}
"""What refusals are counted as, where they do not say it themselves."""


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of the program
    """What a call is answered with instead of a result.

    Attributes:
        code: the gRPC status.
        sentence: what was wrong, where, and what to do.
        reason: a word for counts; by default that of the code.
        request_id: the id that the caller gave the request, as far as it is known.
        model: the model that the request names, likewise.
    """

    def __init__(self, code: Code, sentence: str, reason: str = "") -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.reason = reason or REASONS[code]
        self.request_id = ""
        self.model = ""


def stopping() -> Refusal:
    """The refusal of everything that begins after the guard was told to stop."""
    return Refusal(Code.UNAVAILABLE, "the server is stopping", "stopping")


def percent_encoded(sentence: str) -> bytes:
    """A sentence as `grpc-message` carries it: printable ASCII, everything else and `%` as the %XX of its UTF-8."""
    return _ENCODED.sub(lambda found: b"%%%02X" % found[0][0], sentence.encode("utf-8", "replace"))


def percent_decoded(message: bytes) -> str:
    """The sentence in a `grpc-message`."""
    return unquote_to_bytes(message).decode("utf-8", "replace")


def shown(name: str) -> str:
    """A name that a caller chose, in quotes, short enough for a sentence."""
    return f"'{name}'" if len(name) <= _SHOWN_CHARACTERS else f"'{name[:_SHOWN_CHARACTERS]}...'"
