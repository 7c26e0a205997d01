"""A large protobuf message taken apart before it is parsed: what takes two bytes on the wire may take a hundred parsed.

Raw contents may be as large as the message may be. They are not copied: to copy 64 MiB takes longer than other callers
should wait. Of everything else there may be only so much.
"""

from __future__ import annotations

from rejection_server.guard.refusal import Code, Refusal

__all__ = ["MAX_TYPED_BYTES", "joined", "take_apart"]

MAX_OTHER_BYTES = 1 << 16
"""Bytes of a request that are neither texts nor raw contents."""
MAX_TYPED_BYTES = 1 << 22
"""Bytes of a request beside raw contents, texts in `bytes_contents` included: they are parsed and copied."""
_RAW_INPUT_CONTENTS, _INPUTS, _CONTENTS, _BYTES_CONTENTS = 7, 5, 5, 8
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_PATH = (_INPUTS, _CONTENTS)
_RAW_TAG = bytes([_RAW_INPUT_CONTENTS << 3 | _LENGTH])


def take_apart(message: bytes | memoryview, max_fields: int) -> tuple[bytes, list[memoryview]]:
    """A ModelInferRequest without its raw contents, and these.

    Refuses too many fields, or too many bytes beside texts and raw contents.
    """
    walk = _Walk(message, max_fields)
    walk.enter(0, len(message), 0)
    view, end, rest = memoryview(message), 0, []
    for field, _, stop in walk.raw:
        rest.append(view[end:field])
        end = stop
    rest.append(view[end:])
    if sum(map(len, rest)) > MAX_TYPED_BYTES:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            f"the request has over {MAX_TYPED_BYTES} bytes that are not in raw_input_contents: send the texts there",
        )
    return b"".join(rest), [view[start:stop] for _, start, stop in walk.raw]


def joined(rest: bytes, raw: list[memoryview]) -> list[bytes | memoryview]:
    """The message that was taken apart, in pieces, none of them empty."""
    pieces: list[bytes | memoryview] = [rest]
    for content in raw:
        pieces += [_RAW_TAG + _varint(len(content)), content]
    return [piece for piece in pieces if len(piece)]


class _Walk:
    def __init__(self, message: bytes | memoryview, max_fields: int) -> None:
        self._message = message
        self.raw: list[tuple[int, int, int]] = []
        """Of each raw content: where its field begins, where it does, and where both end."""
        self._fields_left = max_fields + 1024
        self._bytes_left = MAX_OTHER_BYTES

    def enter(self, position: int, end: int, depth: int) -> None:
        """Go through the fields of the message that is nested `depth` times."""
        while position < end:
            field = position
            tag, position = self._varint(position, end)
            self._fields_left -= 1
            number, kind = tag >> 3, tag & 7
            start = position
            if kind == _LENGTH:
                size, start = self._varint(position, end)
                position = start + size
            elif kind == _VARINT:
                _, position = self._varint(position, end)
            elif kind in (_FIXED32, _FIXED64):
                position += 4 if kind == _FIXED32 else 8
            else:
                raise _unreadable()
            if position > end:
                raise _unreadable()
            if kind == _LENGTH and depth < len(_PATH) and number == _PATH[depth]:
                self.enter(start, position, depth + 1)
            elif kind == _LENGTH and depth == 0 and number == _RAW_INPUT_CONTENTS:
                self.raw.append((field, start, position))
            elif kind != _LENGTH or number != _BYTES_CONTENTS or depth != len(_PATH):
                self._bytes_left -= position - start
            if self._fields_left < 0 or self._bytes_left < 0:
                raise Refusal(
                    Code.INVALID_ARGUMENT,
                    "the request has too many tensors, elements or options: send the texts in several requests",
                )

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                break
            byte = self._message[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
        raise _unreadable()


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _unreadable() -> Refusal:
    return Refusal(Code.INVALID_ARGUMENT, "the message is no ModelInferRequest: it cannot be parsed")
