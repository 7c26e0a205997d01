"""What the server gives a caller that is not Python: the load generator in C++ beside the one in Python.

Both take turns at the same loads on the same server. `scripts/build-loadgen` builds the C++ one. Beside them the Python
client with 32 texts a call, which it divides among requests, and with the same texts in one request.
"""

import itertools
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Row, merged, spread_ms
from bench.measure import Bench
from bench.plan import Workload, workload
from bench.settings import LOADGEN, Settings
from rejection_client import ClientConfig, RejectionClient

LOADS = (("short", 1), ("short", 16), ("mixed", 1), ("mixed", 32))
"""Workload, and callers of the closed loop."""
CALL_TEXTS = 32
DIVIDED = {"client, 32 texts a call": 4, "client, 32 texts in one request": 1}
"""Requests that the Python client may have under way at once; 4 is its default."""
WINDOWS = 2 * len(LOADS) + len(DIVIDED)
KEYS = ("caller", "workload", "concurrency")
FIGURES = ("texts_per_s", "latency_ms", "failed")


class LoadgenError(RuntimeError):
    """The C++ generator ended with an error, in whose words it is told."""


def in_turns(bench: Bench) -> list[Row]:
    """A row for each load and caller, rounds joined: rates, latencies, CPU of the caller for each request.

    Raises:
        LoadgenError: The C++ generator failed.
    """
    assert bench.running is not None, "it is about this server"
    address = bench.running.address
    rows: list[Row] = []
    for _ in range(bench.settings.rounds):
        for kind, concurrency in LOADS:
            entry, load = workload(kind), {"workload": kind, "concurrency": concurrency}
            python = bench.measure(entry, concurrency=concurrency)
            python["caller_cpu_ms"] = python["generator_cpu_ms_per_request"]
            rows.append({**load, "caller": "Python", **{name: python[name] for name in (*FIGURES, "caller_cpu_ms")}})
            rows.append({**load, "caller": "C++", **_loadgen(address, entry, concurrency, bench.settings)})
        for name, requests in DIVIDED.items():
            client = _client(address, workload("mixed"), requests, bench.settings)
            rows.append({"workload": "mixed", "concurrency": 1, "caller": name, **client})
    return joined(rows)


def joined(rows: Sequence[Row]) -> list[Row]:
    """Rows of the same load and caller as one: medians of the figures, failures added up."""
    result = merged(rows, KEYS)
    for row in result:
        row["failed"] = sum(one["failed"] for one in rows if all(one[key] == row[key] for key in KEYS))
    return result


def _client(address: str, entry: Workload, requests: int, settings: Settings) -> Row:
    """One thread that calls `classify_many` again and again; latencies and CPU are those of a call."""
    texts = itertools.cycle(entry.texts)
    with RejectionClient(address, ClientConfig(timeout_s=60, max_concurrent_requests=requests)) as client:
        for seconds in (settings.warm_s, settings.seconds):
            times_ms = []
            begin_s, cpu_s = time.perf_counter(), time.process_time()
            while (start_s := time.perf_counter()) < begin_s + seconds:
                client.classify_many(list(itertools.islice(texts, CALL_TEXTS)))
                times_ms.append(1000 * (time.perf_counter() - start_s))
        spent_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - cpu_s
    return {
        "texts_per_s": round(CALL_TEXTS * len(times_ms) / spent_s, 3),
        "latency_ms": spread_ms(times_ms),
        "failed": 0,
        "caller_cpu_ms": round(1000 * cpu_s / len(times_ms), 4),
    }


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    """The file of texts that the C++ generator reads; returns its path."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def run_loadgen(address: str, texts: Path, seconds: float, warm_s: float, *how: object) -> Row:
    """Have the C++ generator send the texts in a file as its options `how` say; returns what it found.

    Raises:
        LoadgenError: It failed.
    """
    command: list[object] = [LOADGEN, "--url", address, "--texts", texts, *how]
    command += ["--seconds", f"{seconds:g}", "--warmup-seconds", f"{warm_s:g}"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=seconds + 120)
    if done.returncode:
        raise LoadgenError(f"the load generator in C++ ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    found: Row = json.loads(done.stdout)
    return found


def _loadgen(address: str, entry: Workload, concurrency: int, settings: Settings) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        texts = write_texts(Path(folder, "texts.jsonl"), entry.texts)
        found = run_loadgen(address, texts, settings.seconds, settings.warm_s, "--concurrency", concurrency)
    return {
        "texts_per_s": found["texts_per_s"],
        "latency_ms": found["latency_ms"],
        "failed": sum(found["failed"].values()),
        "caller_cpu_ms": round(found["cpu_s"] * 1000 / max(1, found["sent"]), 4),
    }
