"""A benchmark that is told to end (SIGTERM, as by `timeout`) stops what it started and keeps what it measured."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

START_S = 240.0
STOP_S = 90.0


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_sigterm_leaves_no_process_and_a_result(tmp_path: Path, times: int) -> None:
    log = tmp_path / "log"
    options = ["--models", "bundled", "--precision", "int8", "--workloads", "short", "--peers", "none", "--rounds", "1"]
    options += ["--concurrency", "2", "--seconds", "0.3", "--warm-seconds", "0.1", "--offered", "none"]
    with log.open("wb") as output:
        bench = subprocess.Popen(
            [sys.executable, "-m", "bench", *options, "--minutes", "1", "--output", tmp_path / "result"],
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        started = _processes_with_triton(bench, log)
        for _ in range(times):
            bench.send_signal(signal.SIGTERM)
        assert bench.wait(STOP_S) == 130, log.read_text()
        _, alive = psutil.wait_procs(started, timeout=STOP_S)
        assert alive == []
    finally:
        bench.kill()
        bench.wait()
    assert "stopped: writing what was measured" in log.read_text()
    result = json.loads((tmp_path / "result" / "result.json").read_text())
    assert not result["complete"]
    assert {row["system"] for row in result["points"]} == {"raw-onnxruntime"}


def _processes_with_triton(bench: "subprocess.Popen[bytes]", log: Path) -> list[psutil.Process]:
    """The benchmark's descendants as soon as tritonserver is among them."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and bench.poll() is None:
        found: list[psutil.Process] = psutil.Process(bench.pid).children(recursive=True)
        if "this server: starting" in log.read_text() and any(_runs_triton(process) for process in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def _runs_triton(process: psutil.Process) -> bool:
    """Whether the process is Triton itself, not the guardian that is told how to start it."""
    try:
        return Path((process.cmdline() or [""])[0]).name == "tritonserver"
    except psutil.Error:
        return False
