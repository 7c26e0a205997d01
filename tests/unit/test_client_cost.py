"""What the client costs is measured: `scripts/bench client` tells CPU, import and memory, and memory has its limit."""

import re
import subprocess
import sys

FIGURE = re.compile(r"^(.+?) +(-?\d+\.\d+) (\w+) +limit ([\d.]+) \3$", re.MULTILINE)


def test_the_client_needs_little_memory_and_its_cost_is_told() -> None:
    # In a process of its own, whose peak memory nothing else has raised.
    command = [sys.executable, "-m", "bench", "client", "--calls", "350", "--texts", "10000"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    figures = {name: (float(value), float(limit)) for name, value, _, limit in FIGURE.findall(run.stdout)}
    assert {name: limit for name, (_, limit) in figures.items()} == {
        "memory of classify_many, 10,000 texts": 50,
        "CPU of classify beyond a bare stub": 0.3,
        "the same, asyncio": 0.3,
        "CPU of importing rejection_client": 0.4,
    }, run.stdout + run.stderr
    memory_mb, limit_mb = figures["memory of classify_many, 10,000 texts"]
    assert memory_mb <= limit_mb
    # How much CPU a call takes is no matter for a test: other processes make it more.
    assert run.returncode == int(any(value > limit for value, limit in figures.values()))
