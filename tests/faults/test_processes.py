"""What becomes of the server when one of its processes dies or stands still, and when the machine has no more to give.

It answers, or it ends with a status and a sentence so that a supervisor starts it again. It never stays and fails.
"""

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from faults import sender
from faults.served import SERVE, Served, can_unshare, fill, unshared
from rejection_client import RejectionClient, RejectionError
from support.kserve import request

PARTS = ("launcher", "guardian", "guard", "tritonserver", "tokenizer", "classifier")
# Generous, as other tests run beside these; the server's own bound is 10 s.
WITHIN_S = 60.0
FROZEN_S = 10.0
MOST_SAID_BYTES = 64 << 10


CAN_MOUNT = pytest.mark.skipif(not can_unshare(), reason="this user may not mount a file system (unshare --mount)")


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as server:
        assert server.call() is None
        yield server


def assert_ended_well(server: Served) -> None:
    """With a status that makes a supervisor act, one sentence that says why, and nothing left."""
    assert server.process.returncode not in (0, None)
    words = server.last_words()
    assert len(words.split()) > 4, server.said.decode()
    assert b"Traceback" not in server.said
    assert server.said_bytes < MOST_SAID_BYTES
    assert server.left(WITHIN_S) == []


@pytest.mark.parametrize("part", PARTS[1:])
def test_the_server_ends_when_a_process_is_killed(served: Served, part: str) -> None:
    served.part(part).kill()
    assert served.comes_to(WITHIN_S) == "ended"
    assert_ended_well(served)


def test_nothing_is_left_of_a_server_whose_launcher_is_killed(served: Served) -> None:
    served.part("launcher").kill()
    served.process.wait()
    assert served.left(WITHIN_S) == []


@pytest.mark.parametrize("part", PARTS)
def test_the_server_answers_or_ends_when_a_process_was_frozen(served: Served, part: str) -> None:
    victim = served.part(part)
    victim.suspend()
    until = time.monotonic() + FROZEN_S
    while time.monotonic() < until and served.ended(0.1) is None:
        served.call()
    if victim.is_running():
        victim.send_signal(signal.SIGCONT)
    outcome = served.comes_to(WITHIN_S)
    assert outcome in ("answers", "ended")
    if outcome == "ended":
        assert_ended_well(served)
    assert served.said_bytes < MOST_SAID_BYTES


@CAN_MOUNT
@pytest.mark.parametrize("what", ["shared memory", "temporary files"])
def test_the_server_answers_while_a_file_system_is_full(what: str, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    folder = Path("/dev/shm") if what == "shared memory" else temporary
    with Served(unshared(folder, size="64m"), {"TMPDIR": str(temporary)}) as server:
        assert server.call() is None
        seen = Path(f"/proc/{server.part('tritonserver').pid}/root{folder}")
        filled = fill(seen)
        large = ["x" * (1 << 20)] * 16
        refused = ""
        with RejectionClient(server.address) as client:
            try:
                client.classify_many(large)
            except RejectionError as error:
                refused = str(error)
        assert server.comes_to(WITHIN_S) == "answers"
        filled.unlink()
        assert server.comes_to(WITHIN_S) == "answers"
        server.process.terminate()
        assert server.ended(WITHIN_S) == 0
        assert server.said_bytes < MOST_SAID_BYTES
    # A region's name is all that a caller needs to read and write it.
    assert "shared memory" not in refused


@CAN_MOUNT
def test_a_server_that_has_no_shared_memory_to_start_with_says_so() -> None:
    done = subprocess.run(
        [*unshared(Path("/dev/shm"), size="1m", full=True), *SERVE],
        env={**os.environ, "REJECTION_SCRIPTS": "scripts"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    assert "in /dev/shm, which is full" in done.stderr.strip().splitlines()[-1]


@CAN_MOUNT
def test_a_server_needs_no_room_for_temporary_files(tmp_path: Path) -> None:
    with Served(unshared(tmp_path, size="1m", full=True), {"TMPDIR": str(tmp_path)}) as server:
        assert server.comes_to(WITHIN_S) == "answers"


def test_the_server_stops_in_order_under_attack() -> None:
    context = multiprocessing.get_context("spawn")
    stop, reports = context.Event(), context.Queue()
    with Served() as server:
        host, port = sender.split(server.address)
        job = sender.Job(
            host=host,
            port=port,
            seed=5,
            numbers=range(10**9),
            only=frozenset(),
            callers=32,
            answers=sender.ask(server.address),
            seconds=600,
        )
        attacker = context.Process(target=sender.send, args=(job, reports, stop), daemon=True)
        attacker.start()
        made = 0
        while made < 500:
            sent, _findings, _under_way = reports.get(timeout=WITHIN_S)
            made += sum(sent.values())
        server.process.terminate()
        assert server.ended(WITHIN_S) == 0
        stop.set()
        assert server.said_bytes < MOST_SAID_BYTES
        assert b"Traceback" not in server.said
        assert server.left(WITHIN_S) == []
        attacker.kill()
        attacker.join()


def test_callers_without_number_and_descriptors_with_one() -> None:
    with Served(["sh", "-c", 'ulimit -n 256; exec "$@"', "sh"]) as server:
        alone = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.insecure_channel(server.address, options=alone) for _ in range(300)]
        calls = [
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request(["No."]), timeout=10)
            for channel in channels
        ]
        failed = [error.details() for call in calls if (error := call.exception()) is not None]
        assert len(failed) < 300, "most are answered"
        assert not [words for words in failed if "queue is full" in words]
        for channel in channels:
            channel.close()
        assert server.comes_to(WITHIN_S) in ("answers", "ended")
        assert server.said_bytes < MOST_SAID_BYTES
