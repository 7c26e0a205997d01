"""libnghttp2, the HTTP/2 library of the Triton wheel, bound with ctypes: what of it a guard needs, and nothing else.

Names are the library's own. `PyDLL` and `PYFUNCTYPE` keep Python's lock over a call: the functions never wait, and
giving up the lock and taking it again would cost more than they do.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from ctypes import (
    PYFUNCTYPE,
    Structure,
    byref,
    c_char_p,
    c_int,
    c_int32,
    c_size_t,
    c_ssize_t,
    c_uint8,
    c_uint32,
    c_void_p,
)
from typing import Any, NamedTuple

from rejection_server.host.errors import TritonNotInstalledError
from rejection_server.host.locate import find_triton

__all__ = [
    "DATA",
    "DATA_FLAG_EOF",
    "DATA_FLAG_NO_END_STREAM",
    "ERR_BAD_CLIENT_MAGIC",
    "ERR_CALLBACK_FAILURE",
    "ERR_DEFERRED",
    "ERR_TEMPORAL_CALLBACK_FAILURE",
    "FLAG_END_STREAM",
    "GOAWAY",
    "HEADERS",
    "SETTINGS",
    "Callbacks",
    "DataProvider",
    "FrameHead",
    "Headers",
    "data_provider",
    "library",
    "new_callbacks",
    "new_options",
    "settings_entries",
]

DATA, HEADERS, SETTINGS, GOAWAY = 0, 1, 4, 7
"""Types of frames."""
FLAG_END_STREAM = 1
DATA_FLAG_EOF = 1
DATA_FLAG_NO_END_STREAM = 2
ERR_DEFERRED = -508
ERR_TEMPORAL_CALLBACK_FAILURE = -521
ERR_CALLBACK_FAILURE = -902
ERR_BAD_CLIENT_MAGIC = -903
SYSTEMS = "libnghttp2.so.14"
"""The system's library, by the name that the loader knows."""
NO_ERROR, CANCEL = 0, 8
SETTINGS_ENABLE_PUSH, SETTINGS_MAX_CONCURRENT_STREAMS = 2, 3
SETTINGS_INITIAL_WINDOW_SIZE, SETTINGS_MAX_HEADER_LIST_SIZE = 4, 6


class FrameHead(Structure):
    """nghttp2_frame_hd."""

    _fields_ = (
        ("length", c_size_t),
        ("stream_id", c_int32),
        ("type", c_uint8),
        ("flags", c_uint8),
        ("reserved", c_uint8),
    )


class _NameValue(Structure):
    _fields_ = (
        ("name", c_char_p),
        ("value", c_char_p),
        ("name_length", c_size_t),
        ("value_length", c_size_t),
        ("flags", c_uint8),
    )


class _SettingsEntry(Structure):
    _fields_ = (("id", c_int32), ("value", c_uint32))


FrameCallback = PYFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p)
# The library ends names and values with a NUL and lets none into them, so they arrive as bytes.
HeaderCallback = PYFUNCTYPE(c_int, c_void_p, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_uint8, c_void_p)
DataCallback = PYFUNCTYPE(c_int, c_void_p, c_uint8, c_int32, c_void_p, c_size_t, c_void_p)
CloseCallback = PYFUNCTYPE(c_int, c_void_p, c_int32, c_uint32, c_void_p)
ReadCallback = PYFUNCTYPE(c_ssize_t, c_void_p, c_int32, c_void_p, c_size_t, c_void_p, c_void_p, c_void_p)


class DataProvider(Structure):
    """nghttp2_data_provider."""

    _fields_ = (("source", c_void_p), ("read", ReadCallback))


class Headers:
    """A list of header fields as the library takes it; it copies them, so one may be used again and again."""

    __slots__ = ("array", "count", "fields")

    def __init__(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        self.fields = fields  # keeps alive what the array points to
        self.count = len(fields)
        self.array = (_NameValue * len(fields))(
            *(_NameValue(name, value, len(name), len(value), 0) for name, value in fields)
        )


class Callbacks(NamedTuple):
    """What a session calls; each gets the session first and its user data last."""

    begin_headers: Callable[..., int]
    """(session, frame, user)"""
    header: Callable[..., int]
    """(session, frame, name, its length, value, its length, flags, user)"""
    frame_recv: Callable[..., int]
    """(session, frame, user)"""
    data_chunk_recv: Callable[..., int]
    """(session, flags, stream, data, its length, user)"""
    stream_close: Callable[..., int]
    """(session, stream, error code, user)"""


_CALLBACK_TYPES = (FrameCallback, HeaderCallback, FrameCallback, DataCallback, CloseCallback)

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "session_server_new2": (c_int, (c_void_p, c_void_p, c_void_p, c_void_p)),
    "session_client_new2": (c_int, (c_void_p, c_void_p, c_void_p, c_void_p)),
    "session_del": (None, (c_void_p,)),
    "session_mem_recv": (c_ssize_t, (c_void_p, c_void_p, c_size_t)),
    "session_mem_send": (c_ssize_t, (c_void_p, c_void_p)),
    "session_want_read": (c_int, (c_void_p,)),
    "session_want_write": (c_int, (c_void_p,)),
    "session_consume_connection": (c_int, (c_void_p, c_size_t)),
    "session_consume_stream": (c_int, (c_void_p, c_int32, c_size_t)),
    "session_set_local_window_size": (c_int, (c_void_p, c_uint8, c_int32, c_int32)),
    "session_resume_data": (c_int, (c_void_p, c_int32)),
    "submit_settings": (c_int, (c_void_p, c_uint8, c_void_p, c_size_t)),
    "submit_request": (c_int32, (c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_void_p)),
    "submit_response": (c_int, (c_void_p, c_int32, c_void_p, c_size_t, c_void_p)),
    "submit_trailer": (c_int, (c_void_p, c_int32, c_void_p, c_size_t)),
    "submit_rst_stream": (c_int, (c_void_p, c_uint8, c_int32, c_uint32)),
    "submit_shutdown_notice": (c_int, (c_void_p,)),
    "submit_goaway": (c_int, (c_void_p, c_uint8, c_int32, c_uint32, c_void_p, c_size_t)),
    "session_get_last_proc_stream_id": (c_int32, (c_void_p,)),
    "option_new": (c_int, (c_void_p,)),
    "option_set_no_auto_window_update": (None, (c_void_p, c_int)),
    "option_set_no_closed_streams": (None, (c_void_p, c_int)),
    "option_set_max_outbound_ack": (None, (c_void_p, c_size_t)),
    "option_set_max_settings": (None, (c_void_p, c_size_t)),
    "option_set_max_continuations": (None, (c_void_p, c_size_t)),
    "option_set_stream_reset_rate_limit": (None, (c_void_p, ctypes.c_uint64, ctypes.c_uint64)),
    "option_set_peer_max_concurrent_streams": (None, (c_void_p, c_uint32)),
    "session_callbacks_new": (c_int, (c_void_p,)),
}


class Library:
    """The library's functions as attributes, without the prefix `nghttp2_`."""

    def __init__(self, path: str) -> None:
        loaded = ctypes.PyDLL(path)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(loaded, f"nghttp2_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        for name in Callbacks._fields:
            function = getattr(loaded, f"nghttp2_session_callbacks_set_on_{name}_callback")
            function.restype, function.argtypes = None, (c_void_p, c_void_p)
            setattr(self, f"set_{name}", function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"libnghttp2 is used without {name}")


@functools.cache
def library() -> Library:
    """Load the wheel's library, or the system's beside an installed Triton.

    Raises TritonNotInstalledError if it is not there or too old.
    """
    triton = find_triton()
    is_wheel = triton.backends is None
    found = [str(path) for path in sorted(triton.libraries.glob("libnghttp2-*.so*"))] if is_wheel else [SYSTEMS]
    package = "nvidia-pytriton" if is_wheel else "libnghttp2-14 of Debian or Ubuntu"
    for path in found:
        try:
            return Library(path)
        except (OSError, AttributeError) as exc:
            raise TritonNotInstalledError(
                f"{path}, with which the guard speaks HTTP/2, cannot be used ({exc}): install the package {package}, "
                "up to date"
            ) from exc
    raise TritonNotInstalledError(f"{triton.libraries} has no libnghttp2: install the package {package} again")


def new_callbacks(callbacks: Callbacks) -> tuple[c_void_p, tuple[Any, ...]]:
    """The library's form of callbacks, and what has to stay alive with it."""
    lib = library()
    made = c_void_p()
    lib.session_callbacks_new(byref(made))
    kept = tuple(kind(function) for kind, function in zip(_CALLBACK_TYPES, callbacks, strict=True))
    for name, function in zip(Callbacks._fields, kept, strict=True):
        getattr(lib, f"set_{name}")(made, function)
    return made, kept


def new_options(*, reset_burst: int, reset_rate: int) -> c_void_p:
    """Options with the library's own protections on; windows are opened by whoever consumes the data."""
    lib = library()
    options = c_void_p()
    lib.option_new(byref(options))
    lib.option_set_no_auto_window_update(options, 1)
    lib.option_set_no_closed_streams(options, 1)
    lib.option_set_max_outbound_ack(options, 1000)
    lib.option_set_max_settings(options, 32)
    lib.option_set_max_continuations(options, 8)
    lib.option_set_stream_reset_rate_limit(options, reset_burst, reset_rate)
    lib.option_set_peer_max_concurrent_streams(options, 1 << 20)
    return options


def settings_entries(values: dict[int, int]) -> Any:
    """An array of settings for `submit_settings`."""
    return (_SettingsEntry * len(values))(*(_SettingsEntry(name, value) for name, value in values.items()))


def data_provider(read: Callable[..., int]) -> DataProvider:
    """A source of data; `read`: (session, stream, buffer, its length, flags, source, user)."""
    return DataProvider(None, ReadCallback(read))
