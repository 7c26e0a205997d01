"""A guard that is told to stop: who calls is told so, who waits is answered. A frozen Triton holds calls under way."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from integration.guard_peer import GOAWAY, INFER, Peer, grpc_message
from integration.guard_process import GuardProcess, frozen, under_way
from support.kserve import Wire, arrays, request

STOPPING = (grpc.StatusCode.UNAVAILABLE, "the server is stopping")


@pytest.mark.parametrize("way", ["standard input ends", "SIGTERM"])
def test_calls_under_way_are_answered_and_new_ones_told(triton: Any, way: str) -> None:
    with GuardProcess(triton.grpc_address) as guard:
        wire, other = Wire(guard.address), Wire(guard.address)
        other.infer(["a"])
        watch = other.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60)
        assert next(watch) == b"\x08\x01"
        with frozen(triton.pid):
            pending = [wire.send(request(["word " * 100_000], max_length=8)) for _ in range(6)]
            assert under_way(guard, 6)
            guard.request_stop(way)
            assert next(watch) == b"\x08\x02"
            for wire in (other, Wire(guard.address)):
                code, details = wire.error(request(["a"]))
                assert code is grpc.StatusCode.UNAVAILABLE
                assert "failed to connect" in details, "nobody listens, and callers were told to leave"
            assert guard.process.poll() is None
        for one in pending:
            assert arrays(one.result())["logits"].shape == (1, 2)
        assert guard.process.wait(30) == 0


def test_calls_for_which_there_is_no_time_are_told_too(triton: Any) -> None:
    with GuardProcess(triton.grpc_address, drain_timeout_s=1) as guard:
        wire = Wire(guard.address)
        with frozen(triton.pid):
            pending = [wire.send(request(["word " * 100_000], max_length=8)) for _ in range(6)]
            assert under_way(guard, 6)
            stream = wire.stub.ModelStreamInfer(iter([request(["a"])]), timeout=60)
            assert under_way(guard, 7)
            guard.request_stop("SIGTERM")
            for one in [*pending, stream]:
                assert (one.exception().code(), one.details()) == STOPPING
            assert guard.process.wait(30) == 0


def test_a_request_that_is_still_arriving_is_under_way(triton: Any) -> None:
    message = grpc_message(request(["a"]).SerializeToString())
    with GuardProcess(triton.grpc_address) as guard, Peer(guard.port) as peer, Peer(guard.port) as other:
        early = peer.call(INFER)
        peer.status(peer.call(INFER, message))
        guard.request_stop("SIGTERM")
        while other.status(other.call(INFER, message)) != (14, "the server is stopping"):
            time.sleep(0.01)
        assert peer.status(peer.call(INFER, message)) == (14, "the server is stopping")
        peer.end(early, message)
        assert peer.status(early) == (0, "")
        assert any(one.kind == GOAWAY for one in peer.frames())
        assert guard.process.wait(30) == 0


def test_callers_who_go_on_calling_do_not_hold_it_up(triton: Any) -> None:
    done = threading.Event()
    errors: list[tuple[Any, str]] = []

    def call_on(address: str) -> None:
        wire = Wire(address)
        while not done.is_set():
            try:
                wire.infer(["a"])
            except grpc.RpcError as error:
                errors.append((error.code(), error.details()))

    with GuardProcess(triton.grpc_address) as guard:
        callers = [threading.Thread(target=call_on, args=(guard.address,)) for _ in range(8)]
        for caller in callers:
            caller.start()
        try:
            while guard.counts()["calls"].get("ModelInfer", {}).get("OK", 0) < 50:
                time.sleep(0.02)
            guard.request_stop("SIGTERM")
            assert guard.process.wait(20) == 0
        finally:
            done.set()
            for caller in callers:
                caller.join()
    assert {code for code, _ in errors} == {grpc.StatusCode.UNAVAILABLE}
    said = {details for _, details in errors}
    # gRPC's own words say that nobody listens any more.
    assert all(details == STOPPING[1] or "refused" in details or "connect" in details.lower() for details in said), said


def test_plain_callers_of_two_servers_lose_nothing_when_one_stops(triton: Any) -> None:
    """gRPC's own round robin, without a retry policy: it has left before anything is refused."""
    options = [("grpc.lb_policy_name", "round_robin"), ("grpc.use_local_subchannel_pool", 1)]
    done = threading.Event()

    def call_on(wire: Wire) -> int:
        calls = 0
        while not done.is_set():
            wire.infer(["a"])
            calls += 1
        return calls

    with (
        GuardProcess(triton.grpc_address) as one,
        GuardProcess(triton.grpc_address) as two,
        ThreadPoolExecutor(4) as pool,
    ):
        wires = [Wire(f"ipv4:{one.address},{two.address}", options) for _ in range(4)]
        try:
            callers = [pool.submit(call_on, wire) for wire in wires]
            for guard in (one, two):
                while guard.counts()["calls"].get("ModelInfer", {}).get("OK", 0) < 20:
                    time.sleep(0.02)
            one.request_stop("SIGTERM")
            assert one.process.wait(20) == 0
        finally:
            done.set()
        assert all(caller.result() > 0 for caller in callers)
