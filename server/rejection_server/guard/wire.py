"""A look at a large protobuf message before it is parsed: what takes two bytes on the wire may take a hundred parsed.

Texts and raw contents, which are copied as they are, may be as large as the message may be. Of everything else there
may be only so much.
"""

from __future__ import annotations

from rejection_server.guard.refusal import Code, Refusal

__all__ = ["check_fields"]

MAX_OTHER_BYTES = 1 << 16
"""Bytes of a request that are neither texts nor raw contents."""
_RAW_INPUT_CONTENTS, _INPUTS, _CONTENTS, _BYTES_CONTENTS = 7, 5, 5, 8
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_PATH = (_INPUTS, _CONTENTS)
_BULK = {0: _RAW_INPUT_CONTENTS, 2: _BYTES_CONTENTS}
"""By depth: the field that may be large."""


def check_fields(message: bytes, max_fields: int) -> None:
    """Refuse a ModelInferRequest with too many fields, or too many bytes beside texts and raw contents."""
    _Walk(message, max_fields).enter(0, len(message), 0)


class _Walk:
    def __init__(self, message: bytes, max_fields: int) -> None:
        self._message = message
        self._fields_left = max_fields + 1024
        self._bytes_left = MAX_OTHER_BYTES

    def enter(self, position: int, end: int, depth: int) -> None:
        """Go through the fields of the message that is nested `depth` times."""
        while position < end:
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
            elif kind != _LENGTH or number != _BULK.get(depth):
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


def _unreadable() -> Refusal:
    return Refusal(Code.INVALID_ARGUMENT, "the message is no ModelInferRequest: it cannot be parsed")
