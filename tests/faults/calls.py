"""The calls that a fuzzer makes: what is sent, and how. A call follows from seed and number alone."""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tritonclient.grpc import service_pb2

from faults.mutations import MUTATIONS
from faults.requests import TEXTS, plain

__all__ = ["Call", "make"]

Ending = Literal["awaited", "cancelled", "deadline", "dropped", "raw"]
SERVICE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/"
_MUTATIONS = [mutation for mutation, _ in MUTATIONS]
_WEIGHTS = [weight for _, weight in MUTATIONS]
METHODS = [method.name for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
ADMIN = [name for name in METHODS if any(word in name for word in ("Memory", "Repository", "Trace", "Log"))]
OPEN = ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics"]


@dataclass(frozen=True)
class Call:
    """One call."""

    kind: str
    """Its name in the report."""
    path: str
    pieces: list[bytes]
    """What its DATA frames hold, one each."""
    headers: tuple[tuple[str, str], ...] = ()
    ending: Ending = "awaited"
    after_s: float = 0.0
    """When it is cancelled or its connection dropped; its deadline."""
    ends: bool = True
    """Whether the caller says that there is no more."""
    texts: tuple[int, ...] = ()
    """If it is valid: which of TEXTS it asks for, so that its answer is known."""
    messages: tuple[tuple[int, ...], ...] = ()
    """If it is a stream that ends well: the texts of each message, none for a wrong one; each must get its answer."""


def make(seed: int, number: int) -> Call:
    """The call with this number."""
    rng = random.Random(seed << 40 | number)
    return rng.choices(_CALLS, _CALL_WEIGHTS)[0](rng)


def framed(message: bytes, flag: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return struct.pack(">BI", flag, len(message)) + message


def _infer(kind: str, pieces: list[bytes], **options: Any) -> Call:
    return Call(kind, f"{SERVICE}ModelInfer", pieces, **options)


def _indexes(rng: random.Random, most: int = 3) -> tuple[int, ...]:
    return tuple(rng.randrange(len(TEXTS)) for _ in range(rng.randint(1, most)))


def _serialized(request: Any) -> bytes:
    return request if isinstance(request, bytes) else bytes(request.SerializeToString(deterministic=True))


def _valid_message(rng: random.Random, indexes: tuple[int, ...]) -> bytes:
    return _serialized(plain(list(indexes), typed=rng.random() < 0.3))


def _mutated(rng: random.Random) -> tuple[str, bytes]:
    mutation = rng.choices(_MUTATIONS, _WEIGHTS)[0]
    return mutation.__name__, _serialized(mutation(rng))


def mutated(rng: random.Random) -> Call:
    name, message = _mutated(rng)
    return _infer(name, [framed(message)])


def valid(rng: random.Random) -> Call:
    indexes = _indexes(rng)
    return _infer("valid", [framed(_valid_message(rng, indexes))], texts=indexes)


def in_pieces(rng: random.Random) -> Call:
    """Valid, but cut where no library cuts, with empty frames between."""
    indexes = _indexes(rng, 1)
    body = framed(_valid_message(rng, indexes))
    pieces, position = [], 0
    while position < len(body):
        size = rng.choice((0, 1, 2, 7, 50))
        pieces.append(body[position : position + size])
        position += size
    return _infer("in_pieces", pieces, texts=indexes)


def compressed(rng: random.Random) -> Call:
    """Valid and compressed, or badly so."""
    indexes = _indexes(rng)
    message = _valid_message(rng, indexes)
    choice = rng.randrange(8)
    if choice < 3:
        encoding = rng.choice(("gzip", "deflate"))
        packed = gzip.compress(message, mtime=0) if encoding == "gzip" else zlib.compress(message)
        return _infer("compressed", [framed(packed, 1)], headers=(("grpc-encoding", encoding),), texts=indexes)
    packed = gzip.compress(message, mtime=0)
    if choice == 3:
        return _infer("badly_compressed", [framed(packed, 1)])
    if choice == 4:
        bomb = gzip.compress(bytes(rng.choice((1 << 20, 1 << 22))), 1, mtime=0)
        return _infer("badly_compressed", [framed(bomb, 1)], headers=(("grpc-encoding", "gzip"),))
    if choice == 5:
        encoding = rng.choice(("br", "snappy", "", "gzip,gzip", "identity"))
        return _infer("badly_compressed", [framed(packed, 1)], headers=(("grpc-encoding", encoding),))
    damaged = packed[: rng.randrange(len(packed))] if choice == 6 else rng.randbytes(50)
    return _infer("badly_compressed", [framed(damaged, 1)], headers=(("grpc-encoding", "gzip"),))


def bad_frame(rng: random.Random) -> Call:
    """Not exactly one gRPC message: none, a part of one, two, another length."""
    _, message = _mutated(rng)
    body = framed(message)
    choice = rng.randrange(6)
    if choice == 0:
        body = body[: rng.randrange(len(body))]
    elif choice == 1:
        body += framed(_valid_message(rng, (0,)))
    elif choice == 2:
        body = bytes([rng.randrange(2, 256)]) + body[1:]
    elif choice == 3:
        length = rng.choice((0, len(message) + 1, 2**31, 2**32 - 1, 70 << 20))
        body = struct.pack(">BI", 0, length) + message
    elif choice == 4:
        body += rng.randbytes(rng.randint(1, 10))
    else:
        body = b""
    return _infer("bad_frame", [body] if body else [])


def cancelled(rng: random.Random) -> Call:
    message = framed(_valid_message(rng, _indexes(rng, 2)))
    return _infer("cancelled", [message], ending="cancelled", after_s=rng.uniform(0, 0.010))


def late(rng: random.Random) -> Call:
    """With a deadline of 1 to 5 ms, at which a caller's library would also cancel."""
    message = framed(_valid_message(rng, _indexes(rng, 2)))
    milliseconds = rng.randint(1, 5)
    ending: Ending = "deadline" if rng.random() < 0.7 else "awaited"
    headers = (("grpc-timeout", f"{milliseconds}m"),)
    return _infer("deadline", [message], headers=headers, ending=ending, after_s=milliseconds / 1000)


def bad_headers(rng: random.Random) -> Call:
    odd = rng.choice(
        (
            ("grpc-timeout", rng.choice(("", "5", "m", "-1S", "99999999999S", "0n", "1x", "1e3m"))),
            ("x-long", "v" * rng.choice((100, 5000, 20000))),
            ("triton_grpc_error", "true"),
            ("content-type", "text/html"),
            ("grpc-encoding", "x" * 5000),
            ("authorization", "Bearer x"),
            ("key-bin", "not base64!"),
        )
    )
    return _infer("bad_headers", [framed(_valid_message(rng, (0,)))], headers=(odd,))


def dropped(rng: random.Random) -> Call:
    """On a connection of its own that is closed at once."""
    _, message = _mutated(rng)
    body = framed(message if rng.random() < 0.5 else _valid_message(rng, (0,)))
    if rng.random() < 0.3:
        body = body[: rng.randrange(len(body))]
    return _infer("dropped", [body], ending="dropped", after_s=rng.uniform(0, 0.010), ends=rng.random() < 0.5)


def not_http2(rng: random.Random) -> Call:
    """On a connection of its own: bytes that are no frames, or frames that break the protocol."""
    frame_like = struct.pack(
        ">IBI", rng.choice((0, 5, 16384)) << 8 | rng.randrange(12), rng.randrange(256), rng.randrange(5)
    )
    body = rng.choice(
        (
            rng.randbytes(rng.choice((1, 9, 100, 2000))),
            frame_like,
            frame_like + rng.randbytes(20),
            b"GET / HTTP/1.1\r\n\r\n",
        )
    )
    return Call("not_http2", "", [body], ending="raw", after_s=rng.uniform(0, 0.020))


def large(rng: random.Random) -> Call:
    """More than the windows of HTTP/2 hold: too long a text, too long a message, or one that is never finished."""
    size = rng.choice((100_000, 1 << 20, (1 << 20) + 1, 3 << 20))
    request = plain([0])
    request.raw_input_contents[0] = struct.pack("<I", size) + b"no " * (size // 3) + b"no"[: size % 3]
    body = framed(_serialized(request))
    choice = rng.randrange(4)
    if choice == 0:
        return _infer("large", [body])
    if choice == 1:
        announced = struct.pack(">BI", 0, rng.choice((66 << 20, 2**32 - 1)))
        return _infer("large", [announced, *[body[:16000]] * rng.choice((1, 100))], ending="cancelled", after_s=0.2)
    part = body[: rng.randrange(len(body))]
    if choice == 2:
        return _infer("large", [part], ending="cancelled", after_s=rng.uniform(0, 0.1), ends=False)
    return _infer("large", [part], ending="dropped", after_s=rng.uniform(0, 0.1), ends=False)


def stream(rng: random.Random) -> Call:
    """ModelStreamInfer with messages of all kinds, ended well, badly or not at all."""
    count = rng.choice((0, 1, 2, 3, 8, 80) if rng.random() < 0.3 else (0, 1, 2, 3))
    texts = tuple(_indexes(rng, 1) if rng.random() < 0.3 else () for _ in range(count))
    bodies = [framed(_valid_message(rng, indexes) if indexes else _mutated(rng)[1]) for indexes in texts]
    path = f"{SERVICE}ModelStreamInfer"
    choice = rng.randrange(10)
    if choice < 5:
        return Call("stream", path, bodies, messages=texts)
    if choice == 5:
        broken = rng.choice((b"\0", b"\0\0\0\0\5abc", b"\7\0\0\0\0", rng.randbytes(12), b"\0\xff\xff\xff\xff"))
        return Call("broken_stream", path, [*bodies, broken])
    if choice == 6:
        return Call("broken_stream", path, bodies, headers=(("triton_grpc_error", "true"),))
    after_s = rng.uniform(0, 0.030)
    if choice == 7:
        return Call("dropped_stream", path, bodies, ending="dropped", after_s=after_s, ends=False)
    return Call("cancelled_stream", path, bodies, ending="cancelled", after_s=after_s, ends=rng.random() < 0.5)


def admin(rng: random.Random) -> Call:
    """What only an operator may ask for."""
    name = rng.choice(ADMIN)
    request = getattr(service_pb2, f"{name}Request")()
    if name == "RepositoryIndex":
        request.ready = rng.random() < 0.5
    elif name == "LogSettings":
        request.settings["log_verbose_level"].uint32_param = rng.choice((0, 0, 1))
    elif name == "TraceSetting":
        request.settings["trace_level"].value.append(rng.choice(("OFF", "bad")))
    elif "Register" in name:
        request.name = rng.choice(("", "stranger", "s" * 300))
        if name == "SystemSharedMemoryRegister":
            request.key, request.byte_size = rng.choice(("/none", "/triton_python_backend_shm_region_1", "")), 64
    elif "Model" in name:
        request.model_name = rng.choice(("nobody", ""))
    message = request.SerializeToString(deterministic=True) if rng.random() < 0.8 else rng.randbytes(20)
    return Call("admin", SERVICE + name, [framed(message)])


def asking(rng: random.Random) -> Call:
    """The methods that anybody may call, health and unknown ones."""
    choice = rng.randrange(8)
    if choice == 0:
        path = rng.choice(
            (f"{SERVICE}Nothing", "/", "/x/y", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        )
        return Call("unknown_method", path, [framed(b"")])
    if choice == 1:
        return Call("health", f"{HEALTH}Check", [framed(rng.choice((b"", b"\x0a\x01x", rng.randbytes(9))))])
    if choice == 2:
        messages = rng.choice(([framed(b"")], [], [framed(b"")] * 3, [rng.randbytes(9)]))
        return Call(
            "watch",
            f"{HEALTH}Watch",
            messages,
            ending="cancelled",
            after_s=rng.uniform(0, 0.05),
            ends=rng.random() < 0.5,
        )
    name = rng.choice(OPEN)
    request = getattr(service_pb2, f"{name}Request")()
    if name.startswith("Model"):
        request.name = rng.choice(("rejection", "classifier", "", "nobody", "\0", "n" * 5000, "\r\n", "é"))
        request.version = rng.choice(("", "", "1", "x", "9" * 30))
    message = (
        request.SerializeToString(deterministic=True)
        if rng.random() < 0.8
        else rng.randbytes(rng.choice((1, 20, 5000)))
    )
    return Call("asking", SERVICE + name, [framed(message)])


_WEIGHTED: tuple[tuple[Callable[[random.Random], Call], int], ...] = (
    (mutated, 640),
    (valid, 30),
    (in_pieces, 10),
    (compressed, 30),
    (bad_frame, 60),
    (cancelled, 50),
    (late, 30),
    (bad_headers, 15),
    (dropped, 20),
    (not_http2, 10),
    (large, 2),
    (stream, 45),
    (admin, 30),
    (asking, 30),
)
_CALLS = [call for call, _ in _WEIGHTED]
_CALL_WEIGHTS = [weight for _, weight in _WEIGHTED]
