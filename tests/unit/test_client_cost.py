"""The client's cost stays within its limits: CPU of a call, import, memory of many texts."""

import os
import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "client"
BENCH = Path(__file__).parents[1] / "bench"


def test_the_client_costs_little() -> None:
    # In a process of its own, whose peak memory nothing else has raised.
    run = subprocess.run(
        [sys.executable, BENCH / "client_cost.py", "--calls", "1400", "--texts", "10000"],
        env={**os.environ, "PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    limits = re.findall(r"^(\S+) .* (-?\d+\.\d+) (\w+) +limit ([\d.]+) \3$", run.stdout, flags=re.MULTILINE)
    assert [(name, limit) for name, _, _, limit in limits] == [
        ("memory", "50"),
        ("CPU", "0.3"),
        ("the", "0.3"),
        ("CPU", "0.4"),
    ]
    assert all(float(value) <= float(limit) for _, value, _, limit in limits)
