"""The server survives everything, and the fuzzer would notice if it did not."""

import collections
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from faults import calls

SEED = 7
MESSAGES = 20_000


def fuzz(tmp_path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status and result of a run."""
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "faults.fuzz", "--seed", str(SEED), "--json", str(result), *options]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    return done.returncode, json.loads(result.read_text())


def test_nothing_that_a_caller_sends_harms_the_server_or_another_caller(tmp_path: Path) -> None:
    status, result = fuzz(tmp_path, "--messages", str(MESSAGES))
    assert result["findings"] == {}
    assert status == 0
    assert result["messages"] == MESSAGES
    assert result["good"]["calls"] > 50
    assert result["good"]["wrong"] == 0
    # What is right among all the wrong was answered.
    assert result["sent"]["valid"].keys() == {"OK"}


@pytest.mark.parametrize(
    ("process", "number", "finding"),
    [("guard", signal.SIGKILL, "crash"), ("tritonserver", signal.SIGKILL, "crash")],
)
def test_a_process_that_ends_is_found(process: str, number: int, finding: str, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "faults.fuzz", "--messages", "10000000", "--json", str(result)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as fuzzer:
        assert fuzzer.stderr is not None
        for line in fuzzer.stderr:
            if " messages, " in line:  # under way
                break
        victims = [
            child
            for child in psutil.Process(fuzzer.pid).children(recursive=True)
            if any(word.endswith((process, f"rejection_server.{process}")) for word in child.cmdline())
        ]
        os.kill(victims[-1].pid, number)
        fuzzer.stderr.read()
        assert fuzzer.wait() == 1
    assert finding in json.loads(result.read_text())["findings"]


def test_a_call_follows_from_seed_and_number() -> None:
    assert [calls.make(3, number) for number in range(2000)] == [calls.make(3, number) for number in range(2000)]
    assert calls.make(3, 5) != calls.make(4, 5)


def test_every_kind_of_call_is_made() -> None:
    made = collections.Counter(calls.make(SEED, number).kind for number in range(MESSAGES))
    assert len(made) >= 45
    assert min(made.values()) >= 20, "each often enough for CI"
