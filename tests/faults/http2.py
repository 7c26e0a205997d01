"""A caller that writes its own HTTP/2 frames: it can send what no gRPC library would, many calls at a time, cheaply.

Headers go out literally; of an answer's header blocks only `grpc-status` is looked for, which needs no table because
the peer is told to keep none.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Sequence
from typing import cast

from grpc import StatusCode

__all__ = ["LOST", "Connection", "Stream"]

LOST = "CONNECTION LOST"
"""What a call ends with whose connection was closed by the peer."""
RESET = "STREAM RESET"
NO_STATUS = "NO STATUS"

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_CANCEL = 8
_MOST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65535
_FRAME = 16384
_REFILL = 2**28
_NAMES: dict[int, str] = {code.value[0]: code.name for code in StatusCode}
# The name as it is, or in HPACK's Huffman code; then its value, which is too short to be coded.
_STATUS = re.compile(rb"(?:\x0bgrpc-status|\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f)([\x01\x02])(\d{1,2})", re.DOTALL)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def _literal(value: bytes) -> bytes:
    """A string of HPACK, not Huffman-coded."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    size, coded = len(value) - 127, bytearray([127])
    while size > 127:
        coded.append(size & 127 | 128)
        size >>= 7
    coded.append(size)
    return bytes(coded) + value


def header_block(path: str, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """The headers of a gRPC call."""
    block = b"\x83\x86\x04" + _literal(path.encode()) + b"\x01\x09localhost"
    block += b"\x0f\x10\x10application/grpc" + b"\0\x02te\x08trailers"
    return block + b"".join(b"\0" + _literal(name.encode()) + _literal(value.encode()) for name, value in headers)


def _headers(stream: int, block: bytes, flags: int) -> bytes:
    first, rest = block[:_FRAME], [block[i : i + _FRAME] for i in range(_FRAME, len(block), _FRAME)]
    data = frame(_HEADERS, flags | (0 if rest else _END_HEADERS), stream, first)
    for index, part in enumerate(rest):
        data += frame(_CONTINUATION, _END_HEADERS if index == len(rest) - 1 else 0, stream, part)
    return data


class Stream:
    """One call: `code` is its future."""

    def __init__(self, connection: Connection, number: int, window: int) -> None:
        self.number = number
        self.code: asyncio.Future[str] = connection.loop.create_future()
        self.data = bytearray()
        """What the peer's DATA frames held."""
        self.block = b""
        self.window = window
        self.unsent: list[bytes] = []
        self.ends = True
        self.is_last = False
        """Whether the peer has said that nothing follows."""
        self._connection = connection

    def cancel(self) -> None:
        """Reset the call, if it is not over; its code is CANCELLED then."""
        self._connection.reset(self)


class Connection(asyncio.Protocol):
    """One connection; open it with `Connection.open`."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._window = self._stream_window = _DEFAULT_WINDOW
        self._received = 0
        self._buffer = bytearray()
        self._is_leaving = False

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connect and send the preface."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    @property
    def usable(self) -> bool:
        """Whether new calls may begin."""
        return not (self.closed or self._is_leaving or self._next > 2**30)

    @property
    def under_way(self) -> int:
        """Calls that are not over."""
        return len(self._streams)

    def call(self, block: bytes, pieces: Sequence[bytes], *, ends: bool = True) -> Stream:
        """Begin a call: its headers, and a DATA frame for each piece; `ends`: whether that is all of it."""
        stream = Stream(self, self._next, self._stream_window)
        self._next += 2
        if self.closed:
            stream.code.set_result(LOST)
            return stream
        self._streams[stream.number] = stream
        is_empty = ends and not pieces
        self.write(_headers(stream.number, block, _END_STREAM if is_empty else 0))
        stream.unsent = [piece[i : i + _FRAME] for piece in pieces for i in range(0, len(piece), _FRAME)]
        stream.ends = ends
        self._push(stream)
        return stream

    def reset(self, stream: Stream) -> None:
        """Give a call up."""
        if self._streams.pop(stream.number, None) is not None:
            self.write(frame(_RST_STREAM, 0, stream.number, struct.pack(">I", _CANCEL)))
            self._end(stream, StatusCode.CANCELLED.name)

    def write(self, data: bytes) -> None:
        """Send any bytes at all."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Leave without a word."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        settings = struct.pack(">HIHI", 1, 0, 4, _MOST_WINDOW)  # no header table, streams of any length
        update = struct.pack(">I", _MOST_WINDOW - _DEFAULT_WINDOW)
        transport_bytes = _PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW_UPDATE, 0, 0, update)
        self.write(transport_bytes)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self.closed = True
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            self._end(stream, LOST)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        position, end = 0, len(self._buffer)
        while end - position >= 9:
            size_kind, flags, number = struct.unpack_from(">IBI", self._buffer, position)
            size = size_kind >> 8
            if end - position < 9 + size:
                break
            payload = bytes(self._buffer[position + 9 : position + 9 + size])
            position += 9 + size
            self._take(size_kind & 255, flags, number & _MOST_WINDOW, payload)
        del self._buffer[:position]

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        stream = self._streams.get(number)
        if kind == _DATA:
            self._count(len(payload))
        if number:
            if stream is not None:
                self._take_for(stream, kind, flags, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self._configure(payload)
        elif kind == _PING and not flags & _ACK:
            self.write(frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self._is_leaving = True
        elif kind == _WINDOW_UPDATE:
            self._window += int.from_bytes(payload, "big")
            self._push_all()

    def _take_for(self, stream: Stream, kind: int, flags: int, payload: bytes) -> None:
        if kind == _DATA:
            stream.data += payload
            stream.is_last |= bool(flags & _END_STREAM)
        elif kind in (_HEADERS, _CONTINUATION):
            stream.block += payload
            stream.is_last |= bool(kind == _HEADERS and flags & _END_STREAM)
        elif kind == _RST_STREAM:
            del self._streams[stream.number]
            self._end(stream, RESET)
            return
        elif kind == _WINDOW_UPDATE:
            stream.window += int.from_bytes(payload, "big")
            self._push(stream)
        if stream.is_last and (kind == _DATA or flags & _END_HEADERS):
            self._finish(stream)

    def _configure(self, payload: bytes) -> None:
        for key, value in struct.iter_unpack(">HI", payload):
            if key == 4:
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
        self.write(frame(_SETTINGS, _ACK, 0))
        self._push_all()

    def _push_all(self) -> None:
        for stream in [stream for stream in self._streams.values() if stream.unsent]:
            self._push(stream)

    def _push(self, stream: Stream) -> None:
        """Send of a call what the peer has room for."""
        while stream.unsent and len(stream.unsent[0]) <= min(stream.window, self._window):
            piece = stream.unsent.pop(0)
            stream.window -= len(piece)
            self._window -= len(piece)
            is_last = stream.ends and not stream.unsent
            self.write(frame(_DATA, _END_STREAM if is_last else 0, stream.number, piece))

    def _count(self, size: int) -> None:
        self._received += size
        if self._received >= _REFILL:
            self.write(frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0

    def _finish(self, stream: Stream) -> None:
        del self._streams[stream.number]
        found = _STATUS.search(stream.block)
        self._end(stream, _NAMES.get(int(found[2]), f"STATUS {int(found[2])}") if found else NO_STATUS)

    @staticmethod
    def _end(stream: Stream, code: str) -> None:
        if not stream.code.done():
            stream.code.set_result(code)
