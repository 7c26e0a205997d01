"""Several guards on one port, which to whoever started them are one."""

import os
import queue
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from integration.guard_process import GuardProcess, frozen
from support.kserve import request

CALLS = 40


@pytest.fixture(scope="module")
def guard(server: Any) -> Iterator[GuardProcess]:
    with GuardProcess(server.triton_address, processes=3, metrics_port=0) as guard:
        yield guard


def others_of(guard: GuardProcess) -> list[int]:
    """Processes of the guards that the first one started."""
    tasks = Path(f"/proc/{guard.process.pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_their_counts_are_one(guard: GuardProcess) -> None:
    for _ in range(CALLS):
        with grpc.insecure_channel(guard.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request(["a"]), timeout=60)
    assert guard.counts()["calls"]["ModelInfer"] == {"OK": CALLS}
    with urllib.request.urlopen(f"http://127.0.0.1:{guard.ready['metrics_port']}/metrics", timeout=60) as page:
        told = page.read().decode()
    assert f'rejection_guard_requests_total{{method="ModelInfer",code="OK"}} {CALLS}' in told
    assert f'rejection_request_duration_seconds_count{{model="rejection"}} {CALLS}' in told


def test_one_that_stands_still_is_noticed(guard: GuardProcess) -> None:
    """The launcher takes it for the guard's silence, and ends the server."""
    assert len(others_of(guard)) == 2
    with frozen(others_of(guard)[0]), pytest.raises(queue.Empty):
        guard.counts(within_s=3)
    assert guard.counts()["connections"] >= 0


@pytest.mark.parametrize("way", ["SIGTERM", "end of input"])
def test_all_end_together(server: Any, way: str) -> None:
    with GuardProcess(server.triton_address, processes=2) as guard:
        (other,) = others_of(guard)
        guard.request_stop(way)
        assert guard.process.wait(60) == 0
        assert not Path(f"/proc/{other}").exists()


def test_the_end_of_one_is_the_end_of_all(server: Any) -> None:
    with GuardProcess(server.triton_address, processes=2) as guard:
        os.kill(others_of(guard)[0], signal.SIGKILL)
        assert guard.process.wait(60) == 1
