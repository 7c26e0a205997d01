"""The guard when Triton does not answer: frozen, gone, back, or asking for a key."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration.guard_peer import INFER, STREAM_INFER, Peer, grpc_message
from integration.guard_process import GuardProcess, frozen, under_way
from rejection_server.host import ServeOptions, Server
from support.kserve import Wire, request
from support.repository import REPOSITORY

DEADLINE_EXCEEDED, UNAVAILABLE = 4, 14
OVER = "the call's deadline is over: allow it more time"
MESSAGE = grpc_message(request(["a"]).SerializeToString())


@pytest.mark.parametrize("path", [INFER, STREAM_INFER, "/inference.GRPCInferenceService/ServerMetadata"])
def test_a_deadline_ends_a_call_that_triton_does_not_answer(triton: Any, path: str) -> None:
    body = grpc_message(b"") if path.endswith("Metadata") else MESSAGE
    with GuardProcess(triton.grpc_address) as guard, Peer(guard.port) as peer:
        assert peer.status(peer.call(path, body, [("grpc-timeout", "20S")])) == (0, "")
        with frozen(triton.pid):
            begun = time.monotonic()
            stream = peer.call(path, body, [("grpc-timeout", "500m")])
            assert peer.status(stream) == (DEADLINE_EXCEEDED, OVER)
            assert time.monotonic() - begun >= 0.5
        assert peer.status(peer.call(path, body)) == (0, "")


def test_the_bound_holds_while_triton_is_frozen(triton: Any) -> None:
    with GuardProcess(triton.grpc_address, max_requests=4, max_upstream_requests=2) as guard, Peer(guard.port) as peer:
        assert peer.status(peer.call(INFER, MESSAGE)) == (0, "")
        with frozen(triton.pid):
            for _ in range(3):
                streams = [peer.call(INFER, MESSAGE, [("grpc-timeout", "300m")]) for _ in range(10)]
                codes = sorted(peer.status(stream)[0] for stream in streams)
                # Of those for whom nobody waits any more Triton keeps two; the others are forgotten.
                assert codes.count(UNAVAILABLE) >= 6
                assert set(codes) == {DEADLINE_EXCEEDED, UNAVAILABLE}
                assert guard.counts()["under_way"] == 2
        # Refused for more than a second, callers find half of the places: those two are taken until Triton goes on.
        assert under_way(guard, 0)
        assert peer.status(peer.call(INFER, MESSAGE, [("grpc-timeout", "60S")])) == (0, "")
        assert under_way(guard, 0)
        assert guard.counts()["under_way_bytes"] == 0
        assert guard.counts()["refused_by"].keys() == {"late", "full"}


def test_a_triton_that_does_not_answer_is_told_of_once(triton: Any) -> None:
    with GuardProcess(triton.grpc_address, live_timeout_s=1.0) as guard:
        Wire(guard.address).infer(["a"])
        time.sleep(1.5)
        assert guard.events.empty()
        with frozen(triton.pid):
            event = guard.events.get(timeout=20)
            assert event.pop("seconds") >= 1
            assert event == {"event": "unresponsive"}
            time.sleep(1.5)
        assert guard.events.get(timeout=20) == {"event": "responsive"}
        assert guard.events.empty()


def test_a_guard_that_stood_still_itself_blames_nobody(triton: Any) -> None:
    with GuardProcess(triton.grpc_address, live_timeout_s=3.0) as guard:
        Wire(guard.address).infer(["a"])
        with frozen(guard.process.pid):
            time.sleep(4)
        assert Wire(guard.address).infer(["a"])["logits"].shape == (1, 2)
        time.sleep(1.5)
        assert guard.events.empty()


def options(tmp_path: Path, **changes: Any) -> ServeOptions:
    given = {"grpc_port": 0, "metrics_port": 0, "cache_bytes": 0, "log_path": tmp_path / "log", **changes}
    return ServeOptions(repository=REPOSITORY, guard=False, silence_s=None, **given)


def test_a_triton_that_is_gone_is_unavailable_until_it_is_back(tmp_path: Path) -> None:
    with Server(options(tmp_path)) as first, GuardProcess(first.grpc_address, live_timeout_s=1.0) as guard:
        wire = Wire(guard.address)
        expected = wire.infer(["a"])["logits"]
        watch = wire.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=300)
        assert next(watch) == b"\x08\x01"
        os.kill(first.pid, signal.SIGSTOP)
        pending = [wire.send(request(["a"])) for _ in range(3)]
        assert under_way(guard, 3)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        for one in pending:
            assert (one.exception().code(), one.exception().details()) == (
                grpc.StatusCode.UNAVAILABLE,
                "the server went away during the call: send the request again",
            )
        says = "the server cannot be reached: send the request again after a while"
        assert wire.error(request(["a"])) == (grpc.StatusCode.UNAVAILABLE, says)
        assert next(watch) == b"\x08\x02"
        while (event := guard.events.get(timeout=30))["event"] != "lost":
            assert event["event"] == "unresponsive"
        port = int(first.grpc_address.rpartition(":")[2])
        with Server(options(tmp_path, grpc_port=port)) as second:
            assert guard.events.get(timeout=30) == {"event": "responsive"}
            assert next(watch) == b"\x08\x01"
            assert (wire.infer(["a"])["logits"] == expected).all()
            assert guard.counts()["refused_by"]["unreachable"] >= 4
            second.kill()
