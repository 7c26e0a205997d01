"""What users tell Locust of their requests, in processes of their own: Locust patches the standard library."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from load import stand_in
from support.repository import ROOT

LATE_S = 5.0

# Prints [kind, milliseconds, the request's times, outcome and texts] of each request.
PROGRAM = """
import json, sys, time
import locust
from locust.env import Environment
from load import cli, stand_in, users

with stand_in.running() as url:
    channels = users.TritonUser.connect(url, cli.parse(["--channels", "1"]))
    environment = Environment()
    told = []
    environment.events.request.add_listener(
        lambda name, response_time, context, **_: told.append([name, response_time, context])
    )
    for kind in users.USERS.values():
        kind(environment).send(time.perf_counter() - float(sys.argv[1]))
    print(json.dumps(told))
    channels.close()
"""


def test_a_request_that_leaves_late_has_the_delay_in_its_latency() -> None:
    command = [sys.executable, "-c", PROGRAM, str(LATE_S)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert [kind for kind, _, _ in told] == ["single", "batch", "stream", "long"]
    assert [context["texts"] for _, _, context in told] == [1, 16, 8, 1]
    for _, milliseconds, context in told:
        intended_s, sent_s, ended_s = context["times_s"]
        assert context["outcome"] == "OK"
        assert sent_s - intended_s >= LATE_S
        assert milliseconds == pytest.approx(1000 * (ended_s - intended_s))


def test_under_locusts_own_command_the_open_loop_sends_the_mix(tmp_path: Path) -> None:
    with stand_in.running() as url:
        command = [
            *(sys.executable, "-m", "locust", "-f", ROOT / "tests" / "load" / "locustfile_open.py", "--headless"),
            *("--host", url, "--csv", tmp_path / "locust"),
            *("--users", 20, "--spawn-rate", 20, "--run-time", "6s", "--timeout", "1m", "--channels", 2),
        ]
        subprocess.run([*map(str, command)], capture_output=True, check=True, timeout=60)
    rows = list(csv.DictReader((tmp_path / "locust_stats.csv").open(encoding="utf-8")))
    assert {"single", "Aggregated"} <= {row["Name"] for row in rows} <= {
        "single", "batch", "stream", "long", "Aggregated",
    }  # fmt: skip
    assert all(row["Failure Count"] == "0" for row in rows)
