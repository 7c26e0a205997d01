"""What a user tells Locust of its request, in a process of its own: Locust patches the standard library."""

import json
import subprocess
import sys

import pytest

LATE_S = 5.0

# Prints [kind, milliseconds, the request's times, outcome and texts] of each request.
PROGRAM = """
import json, subprocess, sys, time
import locust
from locust.env import Environment
from load import cli, users

stand_in = subprocess.Popen([sys.executable, "-m", "load.stand_in"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
try:
    url = f"127.0.0.1:{int(stand_in.stdout.readline())}"
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
finally:
    stand_in.stdin.close()
    stand_in.wait()
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
