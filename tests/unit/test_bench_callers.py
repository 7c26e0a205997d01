"""The scenario that loads the server from C++ beside Python: merging rounds, and what is said without the C++ one."""

from pathlib import Path

import pytest

from bench import callers
from bench.plan import Settings


def row(caller, rate, p50, failed=0):
    return {
        "caller": caller,
        "workload": "short",
        "concurrency": 1,
        "texts_per_s": rate,
        "latency_ms": {"p50": p50, "p90": p50 + 1, "p99": p50 + 2},
        "failed": failed,
        "caller_cpu_ms": rate / 1000,
    }


def test_rounds_become_medians_and_failures_add_up() -> None:
    rounds = [
        [row("Python", 100.0, 5.0), row("C++", 300.0, 2.0)],
        [row("Python", 120.0, 9.0, failed=1), row("C++", 500.0, 1.0)],
        [row("Python", 90.0, 7.0, failed=2), row("C++", 400.0, 3.0)],
    ]
    python, cpp = callers.medians(rounds)
    assert (python["caller"], python["texts_per_s"], python["failed"]) == ("Python", 100.0, 3)
    assert python["latency_ms"] == {"p50": 7.0, "p99": 9.0}
    assert (cpp["caller"], cpp["texts_per_s"], cpp["failed"], cpp["caller_cpu_ms"]) == ("C++", 400.0, 0, 0.4)


def test_missing_generator_is_named(monkeypatch) -> None:
    monkeypatch.setattr(callers, "LOADGEN", Path("/nowhere/loadgen"))
    with pytest.raises(callers.LoadgenError, match="run scripts/build-loadgen"):
        callers.beside_python(None, None, Settings())
