"""What libnghttp2 calls while it takes in data (`mem_recv`) or hands it out (`mem_send`): frames to streams and back.

The library works for one session at a time, `active`, which whoever calls `mem_recv` or `mem_send` names before.
"""

from __future__ import annotations

import functools
import logging
from ctypes import PYFUNCTYPE, c_ssize_t, c_uint32, c_void_p, memmove, py_object, pythonapi
from typing import Any

from rejection_server.guard import nghttp2

__all__ = ["active", "bytes_at", "callbacks", "failed", "provider"]

_log = logging.getLogger(__name__)

active: Any = None
"""The session that the library works for."""
bytes_at = PYFUNCTYPE(py_object, c_void_p, c_ssize_t)(("PyBytes_FromStringAndSize", pythonapi))
"""ctypes.string_at without its detour through Python."""


def failed(what: str) -> int:
    """A fault of the guard's own costs the connection that it happened on, and no other."""
    _log.exception("a connection is closed: %s failed", what)
    return nghttp2.ERR_CALLBACK_FAILURE


def _on_begin_headers(_session: int, frame: int, _user: int) -> int:
    try:
        active.headers_began(active.head(frame).stream_id)
    except Exception:
        return failed("the beginning of a call")
    return 0


def _on_header(
    _session: int, _frame: int, name: bytes, _name_length: int, value: bytes, _length: int, _flags: int, _user: int
) -> int:
    try:
        result: int = active.header(name, value)
    except Exception:
        return failed("a header")
    return result


def _on_frame_recv(_session: int, frame: int, _user: int) -> int:
    try:
        connection = active
        head = connection.head(frame)
        result: int = connection.frame_came(head)
        if head.type <= nghttp2.HEADERS:
            if head.flags & nghttp2.FLAG_END_STREAM and not result:
                stream = connection.streams.get(head.stream_id)
                if stream is not None:
                    connection.ended(stream)
        elif head.type == nghttp2.SETTINGS:
            connection.greeted = True
        elif head.type == nghttp2.GOAWAY:
            connection.is_ending = True
    except Exception:
        return failed("a frame")
    return result


def _on_data_chunk(_session: int, _flags: int, stream_id: int, data: int, size: int, _user: int) -> int:
    try:
        connection = active
        connection.unconsumed += size
        stream = connection.streams.get(stream_id)
        if stream is not None:
            stream.body += bytes_at(data, size)
            stream.unconsumed += size
            connection.data_came(stream, size)
    except Exception:
        return failed("data")
    return 0


def _on_stream_close(_session: int, stream_id: int, _error: int, _user: int) -> int:
    try:
        connection = active
        stream = connection.streams.pop(stream_id, None)
        if stream is not None:
            connection.close(stream)
    except Exception:
        return failed("the end of a call")
    return 0


def _read(session: int, stream_id: int, buffer: int, room: int, flags: int, _source: int, _user: int) -> int:
    try:
        connection = active
        stream = connection.streams.get(stream_id)
        if stream is None:
            return nghttp2.ERR_TEMPORAL_CALLBACK_FAILURE
        out, start = stream.out, stream.sent
        size: int = len(out) - start
        if size > room:
            size = room
            memmove(buffer, bytes(out[start : start + room]), room)
            stream.sent += room
        else:
            memmove(buffer, bytes(out[start:] if start else out), size)
            stream.out, stream.sent = stream.rest.pop(0) if stream.rest else b"", 0
            if stream.finished and not stream.out:
                stream.is_sent = True
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
        return failed("sending")
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
