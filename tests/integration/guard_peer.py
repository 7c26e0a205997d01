"""A peer that speaks HTTP/2 by hand, byte by byte, so that it can do what no library lets a caller do."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterable
from ctypes import byref, c_char_p, c_int, c_size_t, c_ssize_t, c_uint8, c_void_p
from types import TracebackType
from typing import NamedTuple

from rejection_server.host.locate import find_wheel

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"


class Frame(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """A frame as it travels."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def field(name: str, value: str) -> bytes:
    """A header field, literal, at most 126 bytes each of name and value or 16 KiB of value."""
    parts = b"\0"
    for part in (name.encode(), value.encode()):
        if len(part) < 127:
            parts += bytes((len(part),)) + part
        else:
            rest = len(part) - 127
            parts += b"\x7f" + bytes((rest & 127 | 128, rest >> 7 & 127 | 128, rest >> 14)) + part
    return parts


def head(path: str, extra: Iterable[tuple[str, str]] = ()) -> bytes:
    """The header block of a call."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "guard"), ("te", "trailers")]
    return b"".join(field(*one) for one in [*fields, ("content-type", "application/grpc"), *extra])


def grpc_message(content: bytes) -> bytes:
    """A message with gRPC's prefix."""
    return b"\0" + struct.pack(">I", len(content)) + content


class Peer:
    """A connection to a guard, within its `with` block; `greeted` sends what a client has to send first."""

    def __init__(self, port: int, *, greeted: bool = True, window: int = 65535, timeout_s: float = 20) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._rest = b""
        self._inflater = _Inflater()
        self._next = 1
        self._taken = 0
        self._statuses: dict[int, tuple[int, str]] = {}
        if greeted:
            self.send(PREFACE + frame(SETTINGS, payload=struct.pack(">HI", 4, window)))
            # What the guard's settings allow holds once they are acknowledged.
            next(one for one in self.frames() if one.kind == SETTINGS)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def call(self, path: str, body: bytes | None = None, extra: Iterable[tuple[str, str]] = ()) -> int:
        """Begin a call, and end it with a body if there is one; returns the stream."""
        stream, self._next = self._next, self._next + 2
        data = frame(HEADERS, END_HEADERS, stream, head(path, extra))
        if body is not None:
            data += frame(DATA, END_STREAM, stream, body)
        self.send(data)
        return stream

    def end(self, stream: int, body: bytes) -> None:
        """Send a call's body, and end it."""
        self.send(frame(DATA, END_STREAM, stream, body))

    def frames(self) -> Iterable[Frame]:
        """Frames as they come, until the connection ends; what a client has to answer is answered."""
        while True:
            while len(self._rest) < 9 or len(self._rest) < 9 + int.from_bytes(self._rest[:3], "big"):
                try:
                    data = self.socket.recv(1 << 16)
                except ConnectionError:
                    return
                if not data:
                    return
                self._rest += data
            size = 9 + int.from_bytes(self._rest[:3], "big")
            got, self._rest = self._rest[:size], self._rest[size:]
            self._taken += size
            one = Frame(got[3], got[4], int.from_bytes(got[5:9], "big"), got[9:])
            if one.kind == SETTINGS and not one.flags & ACK:
                with contextlib.suppress(ConnectionError):  # what came before the end is read all the same
                    self.send(frame(SETTINGS, ACK))
            elif one.kind == DATA and self._taken >= 1 << 14:
                more, self._taken = struct.pack(">I", self._taken), 0
                self.send(frame(WINDOW_UPDATE, 0, 0, more) + frame(WINDOW_UPDATE, 0, one.stream, more))
            yield one

    def answers(self) -> Iterable[tuple[int, dict[str, str]]]:
        """The headers of each stream as they come, those at its end after those at its beginning."""
        for one in self.frames():
            if one.kind == HEADERS:
                yield one.stream, self._inflater.fields(one.payload)

    def status(self, stream: int) -> tuple[int, str]:
        """The gRPC status and message of a call."""
        answers = iter(self.answers())
        while stream not in self._statuses:
            number, fields = next(answers)
            if "grpc-status" in fields:
                self._statuses[number] = int(fields["grpc-status"]), fields.get("grpc-message", "")
        return self._statuses.pop(stream)

    def is_closed(self) -> bool:
        """Read until the guard ends the connection; raises TimeoutError if it does not."""
        for _ in self.frames():
            pass
        return True


class _NameValue(ctypes.Structure):
    _fields_ = (
        ("name", c_void_p),
        ("value", c_void_p),
        ("name_length", c_size_t),
        ("value_length", c_size_t),
        ("flags", c_uint8),
    )


class _Inflater:
    """HPACK."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(str(next(find_wheel().libraries.glob("libnghttp2-*.so*"))))
        self._lib.nghttp2_hd_inflate_hd.restype = c_ssize_t
        self._lib.nghttp2_hd_inflate_hd.argtypes = (c_void_p, c_void_p, c_void_p, c_char_p, c_size_t, c_int)
        self._inflater = c_void_p()
        self._lib.nghttp2_hd_inflate_new(byref(self._inflater))

    def fields(self, block: bytes) -> dict[str, str]:
        found = {}
        while True:
            pair, flags = _NameValue(), c_int()
            used = self._lib.nghttp2_hd_inflate_hd(self._inflater, byref(pair), byref(flags), block, len(block), 1)
            assert used >= 0
            block = block[used:]
            if flags.value & 2:
                name = ctypes.string_at(pair.name, pair.name_length).decode()
                found[name] = ctypes.string_at(pair.value, pair.value_length).decode()
            if flags.value & 1:
                self._lib.nghttp2_hd_inflate_end_headers(self._inflater)
                return found
