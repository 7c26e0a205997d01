"""The guard against peers that mean harm, byte by byte; beside each of them a caller who is answered as ever."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from integration.guard_peer import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INFER,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    STREAM_INFER,
    WINDOW_UPDATE,
    Peer,
    frame,
    grpc_message,
    head,
)
from integration.guard_process import GuardProcess
from load import stand_in
from rejection_server.guard import GuardSettings
from support.kserve import request

OUTPUTS = ["probabilities"]
GOOD = grpc_message(request(["No."], outputs=OUTPUTS).SerializeToString())
INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 3, 4, 8


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with stand_in.running() as address:
        yield address


@pytest.fixture(scope="module")
def guard(upstream: str) -> Iterator[GuardProcess]:
    with GuardProcess(upstream) as guard:
        yield guard


@pytest.fixture(scope="module")
def impatient(upstream: str) -> Iterator[GuardProcess]:
    with GuardProcess(
        upstream, handshake_timeout_s=1, receive_timeout_s=1, write_timeout_s=1, idle_timeout_s=1
    ) as guard:
        yield guard


def answered(guard: GuardProcess) -> bool:
    with grpc.insecure_channel(guard.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return bool(stub.ModelInfer(request(["No."], outputs=OUTPUTS), timeout=30).outputs)


def eventually(holds: Callable[[], bool], within_s: float = 30) -> bool:
    until = time.monotonic() + within_s
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    return holds()


def flood(guard: GuardProcess, begin: bytes, batches: Iterable[bytes]) -> bool:
    """Send all batches, or as many as the guard takes before it ends the connection; returns whether it did."""
    with Peer(guard.port) as peer:
        ended = threading.Event()

        def read() -> None:
            peer.is_closed()
            ended.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            peer.send(begin)
            for batch in batches:
                if ended.is_set():
                    break
                peer.send(batch)
        except OSError:
            ended.wait(20)
        has_ended = ended.wait(2)
        peer.socket.shutdown(socket.SHUT_RDWR) if not has_ended else None
        reader.join()
    return has_ended


def resets() -> Iterator[bytes]:
    for first in range(1, 40_000, 1000):
        yield b"".join(
            frame(HEADERS, END_HEADERS, stream, head(INFER)) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
            for stream in range(first, first + 1000, 2)
        )


OPEN = frame(HEADERS, END_HEADERS, 1, head(INFER))


@pytest.mark.parametrize(
    ("begin", "batches"),
    [
        pytest.param(OPEN, [frame(DATA, 0, 1, b"\0") * 1000] * 1000, id="data of one byte"),
        pytest.param(OPEN, [frame(DATA, 0, 1) * 1000] * 1000, id="data of no byte"),
        pytest.param(OPEN, [frame(DATA, 8, 1, b"\xff" + bytes(255)) * 1000] * 1000, id="padding"),
        pytest.param(b"", [frame(SETTINGS) * 1000] * 1000, id="settings"),
        pytest.param(b"", [frame(PING, 0, 0, bytes(8)) * 1000] * 1000, id="pings"),
        pytest.param(b"", [frame(PING, ACK, 0, bytes(8)) * 1000] * 1000, id="answers to no ping"),
        pytest.param(b"", [frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * 1000] * 1000, id="windows"),
        pytest.param(OPEN, [frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)) * 1000] * 1000, id="windows of a call"),
        pytest.param(OPEN, [frame(PRIORITY, 0, 1, bytes(5)) * 1000] * 1000, id="priorities"),
        pytest.param(frame(HEADERS, 0, 1, b""), [frame(CONTINUATION, 0, 1, b"") * 100] * 100, id="continuations"),
        pytest.param(b"", resets(), id="calls that are cancelled at once"),
    ],
)
def test_floods_end_the_connection_they_come_on(guard: GuardProcess, begin: bytes, batches: Iterable[bytes]) -> None:
    before = guard.memory_bytes()
    assert flood(guard, begin, batches)
    assert guard.memory_bytes() < before + (32 << 20)
    assert answered(guard)


def test_many_small_messages_and_pings_of_a_good_caller_are_no_flood(guard: GuardProcess) -> None:
    with Peer(guard.port) as peer:
        stream = peer.call(STREAM_INFER)
        for _ in range(100):
            peer.send(frame(DATA, 0, stream, GOOD) * 100 + frame(PING, 0, 0, bytes(8)))
            for got in peer.frames():
                if got.kind == PING:
                    break
        peer.send(frame(DATA, END_STREAM, stream))
        assert peer.status(stream) == (0, "")


# --- peers that are slow or silent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(PREFACE[:10], id="half a preface"),
        pytest.param(PREFACE, id="no settings"),
        pytest.param(PREFACE + frame(SETTINGS), id="no call"),
        pytest.param(PREFACE + frame(SETTINGS) + OPEN[:30], id="half a frame"),
    ],
)
def test_silent_peers_are_let_go(impatient: GuardProcess, said: bytes) -> None:
    with Peer(impatient.port, greeted=False) as peer:
        peer.send(said)
        assert peer.is_closed()


@pytest.mark.parametrize("path", [INFER, STREAM_INFER])
def test_a_call_that_comes_byte_by_byte_has_its_time(impatient: GuardProcess, path: str) -> None:
    with Peer(impatient.port) as peer:
        stream = peer.call(path)
        done = threading.Event()

        def drip() -> None:
            for byte in GOOD:
                peer.send(frame(DATA, 0, stream, bytes((byte,))))
                if done.wait(0.1):
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert peer.status(stream) == (DEADLINE_EXCEEDED, "the request did not arrive within 1 s")
        finally:
            done.set()
            dripping.join()


def test_headers_that_never_end_have_their_time(impatient: GuardProcess) -> None:
    with Peer(impatient.port) as peer:
        peer.send(frame(HEADERS, 0, 1, head(INFER)))
        assert peer.is_closed()


def test_a_peer_that_opens_no_window_is_cut_off(impatient: GuardProcess) -> None:
    with Peer(impatient.port, window=0) as peer:
        stream = peer.call(INFER, GOOD)
        assert any(one.kind == RST_STREAM and one.stream == stream for one in peer.frames())


def test_a_peer_that_never_reads_is_cut_off(impatient: GuardProcess) -> None:
    before = impatient.memory_bytes()
    with Peer(impatient.port, window=(1 << 31) - 1) as peer:
        peer.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30)))
        requests = grpc_message(request([""] * 64, outputs=OUTPUTS).SerializeToString()) * 40
        with contextlib.suppress(ConnectionError):  # it may be cut off before it has said all
            for _ in range(15):
                stream = peer.call(STREAM_INFER)
                for _ in range((1 << 20) // len(requests)):
                    peer.send(frame(DATA, 0, stream, requests))
        assert eventually(lambda: impatient.counts()["connections"] == 0)
    assert impatient.memory_bytes() < before + (64 << 20)
    assert answered(impatient)


# --- what is no gRPC -----------------------------------------------------------------------------------------------


def test_garbage_ends_at_once(guard: GuardProcess) -> None:
    for garbage in (bytes(100), b"\x16\x03\x01\x02\0\x01\0\x01\xfc" + bytes(500), PREFACE + bytes(range(256)) * 9):
        with Peer(guard.port, greeted=False) as peer:
            peer.send(garbage)
            assert peer.is_closed()
    assert answered(guard)


def test_http_1_is_told_what_this_is(guard: GuardProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", guard.port, timeout=20)
    connection.request("POST", "/v2/models/rejection/infer", body=bytes(100_000))
    answer = connection.getresponse()
    assert answer.status == 505
    assert answer.read() == b"this port speaks gRPC, which is HTTP/2: call it with a gRPC client\n"
    connection.close()


def test_too_much_metadata_is_refused(guard: GuardProcess) -> None:
    with Peer(guard.port) as peer:
        stream = peer.call(INFER, GOOD, [("x", "y")] * 520)
        assert peer.status(stream)[0] == RESOURCE_EXHAUSTED
        stream = peer.call(INFER, GOOD)
        assert peer.status(stream) == (0, "")


def test_metadata_that_grows_when_it_is_read_costs_little(guard: GuardProcess) -> None:
    # A field of 4,000 bytes enters the table once and is then meant by one byte.
    bomb = b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000 + b"\xbe" * 12_000
    with Peer(guard.port) as peer:
        for stream in range(1, 41, 2):
            peer.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, head(INFER) + bomb))
        assert any(one.kind == RST_STREAM and one.stream == 39 for one in peer.frames())
    assert answered(guard)


# --- too much of what is good ---------------------------------------------------------------------------------------


def test_three_hundred_connections_at_once_are_answered(guard: GuardProcess) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(guard.port)) for _ in range(300)]
        for _ in range(5):
            streams = [peer.call(INFER, GOOD) for peer in peers]
            assert {peer.status(stream) for peer, stream in zip(peers, streams, strict=True)} == {(0, "")}
        assert guard.counts()["connections"] >= 300


def test_one_address_does_not_take_all_connections(upstream: str) -> None:
    with GuardProcess(upstream, max_connections_per_peer=4) as guard, ExitStack() as stack:
        for _ in range(4):
            peer = stack.enter_context(Peer(guard.port))
            assert peer.status(peer.call(INFER, GOOD)) == (0, "")
        with Peer(guard.port, greeted=False) as fifth:
            assert fifth.is_closed()
        other = socket.create_connection(("127.0.0.1", guard.port), 20, source_address=("127.0.0.2", 0))
        with other:
            other.sendall(PREFACE + frame(SETTINGS))
            assert other.recv(9)[3] == SETTINGS
        counts = guard.counts()
        assert counts["refused_by"] == {"connections": 1}


def test_bombs_are_refused_and_hold_nobody_up(upstream: str) -> None:
    bomb = gzip.compress(bytes(100_000_000))
    with GuardProcess(upstream) as guard, grpc.insecure_channel(guard.address) as channel:
        answered(guard)
        before = guard.memory_bytes()
        call = channel.unary_unary(INFER)
        # gRPC's library compresses by itself only, so the peer is one by hand.
        with Peer(guard.port) as peer:
            body = b"\1" + struct.pack(">I", len(bomb)) + bomb
            pieces = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
            streams = [peer.call(INFER, extra=[("grpc-encoding", "gzip")]) for _ in range(8)]
            for stream in streams:
                for piece in pieces[:-1]:
                    peer.send(frame(DATA, 0, stream, piece))
            for stream in streams:
                peer.send(frame(DATA, END_STREAM, stream, pieces[-1]))
            assert call(GOOD[5:], timeout=20)
            assert guard.counts()["under_way"] > 0, "they are still being inflated"
            for stream in streams:
                code, sentence = peer.status(stream)
                assert (code, sentence[:24]) == (INVALID_ARGUMENT, "the message is too large")
        assert guard.memory_bytes() < before + (200 << 20)
        assert guard.counts()["under_way_bytes"] == 0


def test_memory_has_the_bound_that_the_settings_promise(upstream: str) -> None:
    bounds: dict[str, Any] = {
        "max_bytes": 64 << 20,
        "max_message_bytes": 8 << 20,
        "max_connections": 40,
        "max_all_streams": 1024,
    }
    settings = GuardSettings(upstream=upstream, public_models=("rejection",), **bounds)
    with GuardProcess(upstream, **bounds) as guard, ExitStack() as stack:
        peers = [stack.enter_context(Peer(guard.port)) for _ in range(20)]
        for peer in peers:
            # Ten calls a connection, each of which sends of its 8 MiB as much as its window takes.
            for _ in range(10):
                stream = peer.call(INFER)
                for _ in range(64):
                    peer.send(frame(DATA, 0, stream, bytes((0, 0, 127, 255, 0)) + bytes(16_379)))
        assert eventually(lambda: guard.counts()["refused_by"].get("full", 0) > 100)
        counts = guard.counts()
        assert settings.max_bytes // 2 < counts["under_way_bytes"] <= settings.max_bytes
        assert guard.memory_bytes() < settings.memory_bytes
        for peer in peers:
            peer.socket.close()
        assert eventually(lambda: guard.counts()["under_way_bytes"] == 0)
        assert answered(guard)
