"""A launcher that stands still does not stop the guard, whose words nobody reads then."""

import json
import subprocess
import sys
import urllib.request

from rejection_server.guard import GuardSettings


def test_a_full_pipe_does_not_hold_the_guard() -> None:
    settings = GuardSettings(upstream="127.0.0.1:1", public_models=("rejection",), metrics_port=0)
    with subprocess.Popen(
        [sys.executable, "-m", "rejection_server.guard"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as guard:
        assert guard.stdin is not None
        assert guard.stdout is not None
        guard.stdin.write(settings.to_json().encode() + b"\n")
        ready = json.loads(guard.stdout.readline())
        # Each line asks for the counts, over 200 bytes; a pipe holds 64 KiB.
        for _ in range(20):
            guard.stdin.write(b"\n" * 100)
        with urllib.request.urlopen(f"http://127.0.0.1:{ready['metrics_port']}/metrics", timeout=60) as answer:
            assert b"rejection_guard_connections" in answer.read()
        guard.stdin.close()
        assert guard.wait(60) == 0
