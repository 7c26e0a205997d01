"""gRPC's messages within HTTP/2 data: a byte that says whether it is compressed, four of length, the message."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from rejection_server.guard.refusal import Code, Refusal, shown

__all__ = [
    "ACCEPTED_ENCODINGS",
    "PREFIX_BYTES",
    "Message",
    "framed",
    "inflated",
    "next_message",
    "only_message",
    "prefix",
]

PREFIX_BYTES = 5
COPIED_BYTES = 1 << 16
ACCEPTED_ENCODINGS = "identity,deflate,gzip"
_WINDOW_BITS = {"gzip": 31, "deflate": 15}


class Message(NamedTuple):
    """A message as it came."""

    content: bytes | memoryview
    """A large one is not copied out of the buffer that it came in."""
    is_compressed: bool


def framed(message: bytes) -> bytes:
    """A message, not compressed, with its prefix."""
    return prefix(len(message)) + message


def prefix(size: int) -> bytes:
    """What precedes a message of that size that is not compressed."""
    return b"\0" + size.to_bytes(4, "big")


def only_message(body: bytearray, max_bytes: int) -> Message:
    """The message of a call that has exactly one, which the buffer is left to; raises Refusal."""
    size = _message_size(body, max_bytes)
    wanted = PREFIX_BYTES + (size or 0)
    if size is None or wanted > len(body):
        raise _invalid(f"the call ended after {len(body)} of the {wanted} bytes of its message")
    if wanted < len(body):
        raise _invalid(f"{len(body) - wanted} bytes follow the message: send one message in a call")
    content = memoryview(body)[PREFIX_BYTES:]
    return Message(content if wanted > COPIED_BYTES else bytes(content), body[0] == 1)


def next_message(buffer: bytearray, max_bytes: int) -> Message | None:
    """Take the first message out of the buffer, None if it has not arrived completely; raises Refusal."""
    size = _message_size(buffer, max_bytes)
    if size is None or PREFIX_BYTES + size > len(buffer):
        return None
    end = PREFIX_BYTES + size
    message = Message(bytes(memoryview(buffer)[PREFIX_BYTES:end]), buffer[0] == 1)
    del buffer[:end]
    return message


def _message_size(body: bytearray, max_bytes: int) -> int | None:
    """Length by the prefix, None without a whole one."""
    if len(body) < PREFIX_BYTES:
        return None
    if body[0] > 1:
        raise _invalid(f"the message begins with byte {body[0]}, which must be 0 or 1 (compressed)")
    size = int.from_bytes(body[1:PREFIX_BYTES], "big")
    if size > max_bytes:
        raise too_large(max_bytes)
    return size


def too_large(max_bytes: int) -> Refusal:
    """The refusal of a message over the bound."""
    return Refusal(
        Code.INVALID_ARGUMENT,
        f"the message is too large: at most {max_bytes} bytes are accepted, so send fewer texts at once",
        "too_large",
    )


def inflated(content: bytes | memoryview, encoding: str, max_bytes: int) -> bytes:
    """The content of a compressed message, decompressed, for which no more memory is taken than `max_bytes`.

    `encoding`: the call's `grpc-encoding`, empty for none. Raises Refusal.
    """
    if encoding in ("", "identity"):
        raise _invalid("the message is marked as compressed, but the call has no grpc-encoding")
    if encoding not in _WINDOW_BITS:
        raise Refusal(
            Code.UNIMPLEMENTED, f"the encoding {shown(encoding)} is not known: use one of {ACCEPTED_ENCODINGS}"
        )
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain = inflater.decompress(content, max_bytes + 1)
    except zlib.error as exc:
        raise _invalid(f"the message is not {encoding}: {exc}") from exc
    if len(plain) > max_bytes:
        raise too_large(max_bytes)
    if not inflater.eof or inflater.unused_data:
        raise _invalid(f"the message is not exactly one piece of {encoding}")
    return plain


def _invalid(sentence: str) -> Refusal:
    return Refusal(Code.INVALID_ARGUMENT, sentence)
