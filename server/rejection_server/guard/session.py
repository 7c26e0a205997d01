"""One HTTP/2 connection, of a caller or to Triton: bytes between asyncio and libnghttp2, frames to its streams.

The library calls back (`callbacks`) while it takes in data (`mem_recv`) or hands it out (`mem_send`), so neither is
called from within; what is submitted goes out at the end of the loop's turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from ctypes import addressof, byref, c_char, c_void_p
from typing import Any

from rejection_server.guard import callbacks, nghttp2
from rejection_server.guard.nghttp2 import FrameHead, Headers
from rejection_server.guard.turns import TurnLoop

__all__ = ["Session", "Stream"]

RECEIVE_BYTES = 1 << 17
"""Most bytes that are read of a connection before the others have their turn."""
CONNECTION_WINDOW = 1 << 24
STREAM_WINDOW = 1 << 20
WINDOW_STEP = 1 << 16
"""A window is opened again when so much of it was consumed."""
_TYPE, _ERROR = 3, slice(13, 17)
"""Where the type of a frame is in it, and the error code of a goodbye."""
LINGER_S = 1.0
"""How long a connection that said goodbye is read, so that the peer gets to read the goodbye."""

_buffer = bytearray(RECEIVE_BYTES)
_view = memoryview(_buffer)
_buffer_address = addressof(c_char.from_buffer(_buffer))
_pointer = c_void_p()
_pointer_reference = byref(_pointer)


class Stream:
    """One call on one connection."""

    __slots__ = ("body", "closed", "finished", "id", "is_sent", "out", "rest", "sent", "trailer", "unconsumed")

    def __init__(self, stream_id: int = 0) -> None:
        self.id = stream_id
        self.body = bytearray()
        """What came and is not used yet."""
        self.out: bytes | memoryview = b""
        """What goes out, of which `sent` bytes have gone."""
        self.rest: list[bytes | memoryview] = []
        """What goes out after it, none of it empty."""
        self.sent = 0
        self.finished = False
        """Whether nothing follows `out` but the trailer."""
        self.trailer: Headers | None = None
        self.is_sent = False
        """Whether the library has all that there is to send."""
        self.unconsumed = 0
        """Bytes for which the peer's window has not been opened again."""
        self.closed = False

    def taken(self) -> None:
        """Some of `out` has gone to the peer; overridden where more may follow."""


class Session(asyncio.BufferedProtocol):
    """Base of both sides' connections."""

    is_server = True
    write_ahead_bytes = 1 << 18
    """How much is taken from the library before asyncio is asked whether the peer keeps up."""
    streams: dict[int, Any]

    def __init__(self, options: c_void_p, settings: dict[int, int]) -> None:
        self.lib = nghttp2.library()
        self._options = options
        self._settings = settings
        self.session = c_void_p()
        """The library's session, NULL when the connection is gone."""
        self._head = FrameHead()
        self._head_address = 0
        self._flush_is_due = False
        self.unconsumed = 0
        self.streams = {}
        self.transport: Any = None
        self.loop = asyncio.get_running_loop()
        self._flush_later = self.loop.at_turns_end if isinstance(self.loop, TurnLoop) else self.loop.call_soon
        self.greeted = False
        """Whether the peer has sent its settings."""
        self.is_ending = False
        """Whether one side said goodbye: the connection ends with its last stream."""
        self._is_lingering = False
        self.is_paused = False
        """Whether the peer does not take what is sent."""
        self.cut_short: list[Any] = []
        """Streams that were answered while they arrived: the rest of them is not wanted."""
        self.current: Any = None
        """The stream whose headers are arriving."""

    # --- for subclasses ------------------------------------------------------------------------------------------

    def headers_began(self, stream_id: int) -> None:
        """Header fields of a stream follow; sets `current`."""
        raise NotImplementedError

    def header(self, name: bytes, value: bytes) -> int:
        """One header field of the stream `current`; returns 0 or an error of the library."""
        raise NotImplementedError

    def frame_came(self, head: FrameHead) -> int:
        """Any frame has come completely; returns 0 or an error of the library."""
        raise NotImplementedError

    def data_came(self, stream: Any, size: int) -> None:
        """`size` more bytes are in the body of the stream."""
        raise NotImplementedError

    def ended(self, stream: Any) -> None:
        """The peer has sent all of the stream."""
        raise NotImplementedError

    def stream_closed(self, stream: Any) -> None:
        """Both sides are done with the stream, or one gave it up."""
        raise NotImplementedError

    def spoke_otherwise(self) -> None:
        """The peer does not speak HTTP/2."""

    # --- asyncio -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin HTTP/2."""
        self.transport = transport
        transport.set_write_buffer_limits(high=self.write_ahead_bytes)  # type: ignore[attr-defined]  # a Transport, here
        raw = transport.get_extra_info("socket")
        if raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        new = self.lib.session_server_new2 if self.is_server else self.lib.session_client_new2
        new(byref(self.session), callbacks.callbacks()[0], None, self._options)
        entries = nghttp2.settings_entries(self._settings)
        self.lib.submit_settings(self.session, 0, entries, len(entries))
        self.lib.session_set_local_window_size(self.session, 0, 0, CONNECTION_WINDOW)
        if not self.is_server:  # which speaks second, when it knows that this is HTTP/2
            self.flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget the streams and free the library's memory."""
        session, self.session = self.session, c_void_p()
        if session:
            self.lib.session_del(session)
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            self.close(stream)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """One buffer for all connections: what is in it is used before the next read."""
        return _view

    def buffer_updated(self, nbytes: int) -> None:
        """Feed the library; what it answers goes out at the end of the turn."""
        if self._is_lingering or not self.session:
            return
        callbacks.active = self
        result = self.lib.session_mem_recv(self.session, _buffer_address, nbytes)
        if result < 0:
            if result == nghttp2.ERR_BAD_CLIENT_MAGIC:
                self.spoke_otherwise()
                self._linger()
            else:
                self.transport.abort()
            return
        if self.unconsumed >= WINDOW_STEP:
            self.lib.session_consume_connection(self.session, self.unconsumed)
            self.unconsumed = 0
        if self.is_ending or self.lib.session_want_write(self.session):
            self.flush_soon()

    def pause_writing(self) -> None:
        """The peer does not take what is sent: take nothing from it either."""
        self.is_paused = True
        if self.is_server:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer takes data again."""
        self.is_paused = False
        if self.is_server:
            self.transport.resume_reading()
        self.flush_soon()

    # --- sending -------------------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Send what was submitted, together with what else is submitted in this turn of the loop."""
        if not self._flush_is_due:
            self._flush_is_due = True
            self._flush_later(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_is_due = False
        try:
            self.flush()
        except Exception:
            callbacks.failed("sending")
            self.transport.abort()

    def flush(self) -> None:
        """Send what the library has to send, as far as the peer takes it."""
        send, session = self.lib.session_mem_send, self.session
        is_broken = False
        while session and not self.is_paused and not self._is_lingering:
            callbacks.active = self
            chunks, size = [], 0
            while size < self.write_ahead_bytes and (count := send(session, _pointer_reference)) > 0:
                frame: bytes = callbacks.bytes_at(_pointer, count)
                # A goodbye of the library's own has an error: the peer broke the protocol, nothing more is read of it.
                is_broken |= frame[_TYPE] == nghttp2.GOAWAY and any(frame[_ERROR])
                chunks.append(frame)
                size += count
            if chunks:
                self.sent(size)
                self.transport.write(b"".join(chunks) if len(chunks) > 1 else chunks[0])
            if size < self.write_ahead_bytes:
                if self.cut_short and self._end_cut_short():
                    continue
                if is_broken or (self.is_ending and not self.streams):
                    self._linger()
                return

    def _end_cut_short(self) -> bool:
        # Not before now: the library drops an answer whose stream was reset before it went.
        done = [stream for stream in self.cut_short if stream.is_sent]
        self.cut_short = [stream for stream in self.cut_short if not (stream.is_sent or stream.closed)]
        for stream in done:
            if not (stream.closed or stream.is_complete):
                self.reset(stream)
        return bool(done)

    def sent(self, size: int) -> None:
        """So many bytes go to the peer."""

    def reset(self, stream: Stream, error: int = nghttp2.NO_ERROR) -> None:
        """End a stream at once, whatever the peer is still sending."""
        self.lib.submit_rst_stream(self.session, 0, stream.id, error)

    def consume_stream(self, stream: Stream) -> None:
        """Let the peer send as much again as was taken of the stream."""
        size, stream.unconsumed = stream.unconsumed, 0
        self.lib.session_consume_stream(self.session, stream.id, size)

    def announce_goodbye(self) -> None:
        """Have the peer begin its next calls elsewhere; those that it has begun by then are taken."""
        if self.session and not self.is_ending:
            self.lib.submit_shutdown_notice(self.session)
            self.flush_soon()

    def say_goodbye(self) -> None:
        """Take no more calls; close once those under way are answered and everything has gone."""
        if self.session and not self.is_ending:
            self.is_ending = True
            last = self.lib.session_get_last_proc_stream_id(self.session)
            self.lib.submit_goaway(self.session, 0, last, nghttp2.NO_ERROR, None, 0)
            self.flush_soon()

    def _linger(self) -> None:
        # A socket that is closed with something unread in it takes back what the peer has not read yet.
        self._is_lingering = True
        with contextlib.suppress(OSError):  # the peer may be gone
            if self.transport.can_write_eof():
                self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.abort)

    def head(self, frame: int) -> FrameHead:
        """The head of a frame that was received; a session keeps all of them at one place."""
        if frame != self._head_address:
            self._head_address, self._head = frame, FrameHead.from_address(frame)
        return self._head

    def close(self, stream: Any) -> None:
        stream.closed = True
        self.stream_closed(stream)
