"""One HTTP/2 connection, of a caller or to Triton: bytes between asyncio and libnghttp2, frames to its streams.

The library calls back into the functions below while it takes in data (`mem_recv`) or hands it out (`mem_send`), so
neither is called from within them; what they submit goes out with the next `flush`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from ctypes import byref, c_uint32, c_void_p, memmove, string_at
from typing import Any

from rejection_server.guard import nghttp2
from rejection_server.guard.nghttp2 import FrameHead, Headers

__all__ = ["Session", "Stream", "callbacks", "provider"]

_log = logging.getLogger(__name__)

WRITE_AHEAD_BYTES = 1 << 18
"""How much is taken from the library before asyncio is asked whether the peer keeps up."""
CONNECTION_WINDOW = 1 << 24
STREAM_WINDOW = 1 << 20
WINDOW_STEP = 1 << 16
"""A stream's window is opened again when so much of it was consumed."""

_sessions: dict[int, Session] = {}
"""By the user data that the library hands back."""
_pointer = c_void_p()
_pointer_reference = byref(_pointer)


class Stream:
    """One call on one connection."""

    __slots__ = ("body", "closed", "finished", "id", "out", "sent", "trailer", "unconsumed")

    def __init__(self, stream_id: int = 0) -> None:
        self.id = stream_id
        self.body = bytearray()
        """What came and is not used yet."""
        self.out = b""
        """What goes out, of which `sent` bytes have gone."""
        self.sent = 0
        self.finished = False
        """Whether nothing follows `out` but the trailer."""
        self.trailer: Headers | None = None
        self.unconsumed = 0
        """Bytes for which the peer's window has not been opened again."""
        self.closed = False

    def taken(self) -> None:
        """Some of `out` has gone to the peer; overridden where more may follow."""


class Session(asyncio.Protocol):
    """Base of both sides' connections."""

    is_server = True
    streams: dict[int, Any]

    def __init__(self, options: c_void_p, settings: dict[int, int]) -> None:
        self.lib = nghttp2.library()
        self._options = options
        self._settings = settings
        self._session = c_void_p()
        self._key = id(self)
        self._head = FrameHead()
        self._head_address = 0
        self._flush_is_due = False
        self.streams = {}
        self.transport: Any = None
        self.loop = asyncio.get_running_loop()
        self.greeted = False
        """Whether the peer has sent its settings."""
        self.paused_since: float | None = None
        """Since when the peer has taken nothing, by the loop's clock."""
        self.current: Any = None
        """The stream whose headers are arriving."""

    # --- for subclasses ------------------------------------------------------------------------------------------

    def headers_began(self, stream_id: int) -> None:
        """Header fields of a stream follow; sets `current`."""
        raise NotImplementedError

    def header(self, name_address: int, name_length: int, value_address: int, value_length: int) -> int:
        """One header field of the stream `current`; returns 0 or an error of the library."""
        raise NotImplementedError

    def data_came(self, stream: Any, size: int) -> None:
        """`size` more bytes are in the body of the stream."""
        raise NotImplementedError

    def ended(self, stream: Any) -> None:
        """The peer has sent all of the stream."""
        raise NotImplementedError

    def stream_closed(self, stream: Any, error: int) -> None:
        """Both sides are done with the stream, or one gave it up."""
        raise NotImplementedError

    def writable_again(self) -> None:
        """The peer takes data again."""

    # --- asyncio -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin HTTP/2."""
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_AHEAD_BYTES)  # type: ignore[attr-defined]  # a Transport, here
        raw = transport.get_extra_info("socket")
        if raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        new = self.lib.session_server_new2 if self.is_server else self.lib.session_client_new2
        new(byref(self._session), callbacks()[0], c_void_p(self._key), self._options)
        _sessions[self._key] = self
        entries = nghttp2.settings_entries(self._settings)
        self.lib.submit_settings(self._session, 0, entries, len(entries))
        self.lib.session_set_local_window_size(self._session, 0, 0, CONNECTION_WINDOW)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget the streams and free the library's memory."""
        if not self._session:
            return
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            self._close(stream, 0)
        session, self._session = self._session, c_void_p()
        self.lib.session_del(session)
        _sessions.pop(self._key, None)

    def data_received(self, data: bytes) -> None:
        """Feed the library and send what it answers."""
        if not self._session:
            return
        if self.lib.session_mem_recv(self._session, data, len(data)) < 0:
            self.transport.abort() if not self.greeted else self.transport.close()
            return
        self.flush()

    def pause_writing(self) -> None:
        """The peer does not take what is sent: take nothing from it either."""
        self.paused_since = self.loop.time()
        if self.is_server:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer takes data again."""
        self.paused_since = None
        if self.is_server:
            self.transport.resume_reading()
        self.flush()
        self.writable_again()

    # --- sending -------------------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Send what was submitted, together with what else is submitted in this turn of the loop."""
        if not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_is_due = False
        self.flush()

    def flush(self) -> None:
        """Send what the library has to send, as far as the peer takes it."""
        lib, session = self.lib, self._session
        while session and self.paused_since is None:
            chunks, size = [], 0
            while size < WRITE_AHEAD_BYTES and (count := lib.session_mem_send(session, _pointer_reference)) > 0:
                chunks.append(string_at(_pointer.value, count))  # type: ignore[arg-type]  # never NULL
                size += count
            if not chunks:
                if not (lib.session_want_read(session) or lib.session_want_write(session)):
                    self.transport.close()
                return
            self.sent(size)
            self.transport.write(b"".join(chunks) if len(chunks) > 1 else chunks[0])

    def sent(self, size: int) -> None:
        """So many bytes go to the peer."""

    def reset(self, stream: Stream, error: int = nghttp2.NO_ERROR) -> None:
        """End a stream at once, whatever the peer is still sending."""
        self.lib.submit_rst_stream(self._session, 0, stream.id, error)

    def consume_stream(self, stream: Stream) -> None:
        """Let the peer send as much again as was taken of the stream."""
        size, stream.unconsumed = stream.unconsumed, 0
        self.lib.session_consume_stream(self._session, stream.id, size)

    def terminate(self) -> None:
        """Say goodbye and close once everything has gone."""
        if self._session:
            self.lib.session_terminate_session(self._session, nghttp2.NO_ERROR)
            self.flush_soon()

    @property
    def session(self) -> c_void_p:
        """The library's session, NULL when the connection is gone."""
        return self._session

    def head(self, frame: int) -> FrameHead:
        """The head of a frame that was received; a session keeps all of them at one place."""
        if frame != self._head_address:
            self._head_address, self._head = frame, FrameHead.from_address(frame)
        return self._head

    def _close(self, stream: Any, error: int) -> None:
        stream.closed = True
        self.stream_closed(stream, error)


def _failed(what: str) -> int:
    """A fault of the guard's own costs the connection that it happened on, and no other."""
    _log.exception("a connection is closed: %s failed", what)
    return nghttp2.ERR_CALLBACK_FAILURE


def _on_begin_headers(_session: int, frame: int, key: int) -> int:
    try:
        connection = _sessions[key]
        connection.headers_began(connection.head(frame).stream_id)
    except Exception:
        return _failed("the beginning of a call")
    return 0


def _on_header(
    _session: int,
    _frame: int,
    name_address: int,
    name_length: int,
    value_address: int,
    value_length: int,
    _flags: int,
    key: int,
) -> int:
    try:
        return _sessions[key].header(name_address, name_length, value_address, value_length)
    except Exception:
        return _failed("a header")


def _on_frame_recv(_session: int, frame: int, key: int) -> int:
    try:
        connection = _sessions[key]
        head = connection.head(frame)
        if head.type <= nghttp2.HEADERS:
            if head.flags & nghttp2.FLAG_END_STREAM:
                stream = connection.streams.get(head.stream_id)
                if stream is not None:
                    connection.ended(stream)
        elif head.type == nghttp2.SETTINGS:
            connection.greeted = True
    except Exception:
        return _failed("a frame")
    return 0


def _on_data_chunk(session: int, _flags: int, stream_id: int, data: int, size: int, key: int) -> int:
    try:
        connection = _sessions[key]
        connection.lib.session_consume_connection(session, size)
        stream = connection.streams.get(stream_id)
        if stream is not None:
            stream.body += string_at(data, size)
            stream.unconsumed += size
            connection.data_came(stream, size)
    except Exception:
        return _failed("data")
    return 0


def _on_stream_close(_session: int, stream_id: int, error: int, key: int) -> int:
    try:
        connection = _sessions[key]
        stream = connection.streams.pop(stream_id, None)
        if stream is not None:
            connection._close(stream, error)  # noqa: SLF001 - this is the class's own callback
    except Exception:
        return _failed("the end of a call")
    return 0


def _read(  # noqa: PLR0913 - the library's signature
    session: int, stream_id: int, buffer: int, room: int, flags: int, _source: int, key: int
) -> int:
    try:
        connection = _sessions[key]
        stream = connection.streams.get(stream_id)
        if stream is None:
            return nghttp2.ERR_TEMPORAL_CALLBACK_FAILURE
        out, start = stream.out, stream.sent
        size: int = len(out) - start
        if size > room:
            size = room
            memmove(buffer, out[start : start + room], room)
            stream.sent += room
        else:
            memmove(buffer, out[start:] if start else out, size)
            stream.out, stream.sent = b"", 0
            if stream.finished:
                trailer = stream.trailer
                if trailer is None:
                    c_uint32.from_address(flags).value = nghttp2.DATA_FLAG_EOF
                else:
                    c_uint32.from_address(flags).value = nghttp2.DATA_FLAG_EOF | nghttp2.DATA_FLAG_NO_END_STREAM
                    connection.lib.submit_trailer(session, stream_id, trailer.array, trailer.count)
                return size
        if not size:
            return nghttp2.ERR_DEFERRED
        stream.taken()
    except Exception:
        return _failed("sending")
    return size


@functools.cache
def callbacks() -> tuple[c_void_p, tuple[Any, ...]]:
    """The callbacks of every session."""
    return nghttp2.new_callbacks(
        nghttp2.Callbacks(_on_begin_headers, _on_header, _on_frame_recv, _on_data_chunk, _on_stream_close)
    )


@functools.cache
def provider() -> nghttp2.DataProvider:
    """The source of every stream's data: its `out`."""
    return nghttp2.data_provider(_read)
