"""The interceptor that times requests, in a process of its own: Locust patches the standard library."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LATE_S = 5.0

# Prints [kind, milliseconds, the request's times, outcome, texts] of each request.
PROGRAM = """
import json, subprocess, sys, time
import locust
from locust.env import Environment
from load import generator, users
from load.rpc import Connection

stand_in = subprocess.Popen([sys.executable, sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
try:
    channels = users.TritonUser.connect(Connection(f"127.0.0.1:{int(stand_in.stdout.readline())}", channels=1))
    environment = Environment()
    told = []
    environment.events.request.add_listener(
        lambda name, response_time, context, **_: told.append([name, response_time, context])
    )
    for kind in users.KINDS.values():
        generator.send(kind(environment), time.perf_counter() - float(sys.argv[2]))
    print(json.dumps(told))
    channels.close()
finally:
    stand_in.stdin.close()
    stand_in.wait()
"""


@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="Locust is not installed")
def test_a_request_that_leaves_late_has_the_delay_in_its_latency() -> None:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'client'}"}
    command = [sys.executable, "-c", PROGRAM, str(TESTS / "load" / "stand_in.py"), str(LATE_S)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert [kind for kind, _, _ in told] == ["single", "batch", "stream", "long"]
    assert [context["rows"] for _, _, context in told] == [1, 16, 8, 1]
    for _, milliseconds, context in told:
        assert context["outcome"] == "OK"
        assert context["sent_s"] - context["intended_s"] >= LATE_S
        assert milliseconds == pytest.approx(1000 * (context["ended_s"] - context["intended_s"]))
