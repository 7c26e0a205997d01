"""What the server gives a caller that is not Python: the load generator in C++ beside the one in Python.

Both take turns at the same loads on the same server. `scripts/build-loadgen` builds the C++ one. Beside them the Python
client with 32 texts a call, which it divides among requests, and with the same texts in one request.
"""

import itertools
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.generator import Generator
from bench.measure import Prepared, measure
from bench.paths import BUILD
from bench.plan import Settings, Workload, workload
from bench.triton import Running
from rejection_client import ClientConfig, RejectionClient

LOADGEN = BUILD.parent / "loadgen" / "loadgen"
LOADS = (("short", 1), ("short", 16), ("mixed", 1), ("mixed", 32))
"""Workload, and callers of the closed loop."""


class LoadgenError(RuntimeError):
    """The C++ generator is missing or failed; the message says what to do."""


CALL_TEXTS = 32
DIVIDED = {"client, 32 texts a call": 4, "client, 32 texts in one request": 1}
"""Requests that the Python client may have under way at once; 4 is its default."""


def windows() -> int:
    """How many windows are measured."""
    return 2 * len(LOADS) + len(DIVIDED)


def beside_python(running: Running, prepared: Prepared, settings: Settings) -> list[dict[str, Any]]:
    """A row for each load and generator: rates, latencies, CPU of the generator for each request.

    Raises:
        LoadgenError: It is not built, or ended with an error.
    """
    if not LOADGEN.is_file():
        raise LoadgenError("the load generator in C++ is not built: run scripts/build-loadgen")
    rows = []
    with Generator(running.target.caller) as generator:
        for kind, concurrency in LOADS:
            entry = workload(kind)
            python = measure(generator, running.target, prepared, entry, settings, concurrency=concurrency)
            rows.append(
                {
                    "caller": "Python",
                    "workload": kind,
                    "concurrency": concurrency,
                    **{name: python[name] for name in ("texts_per_s", "latency_ms", "failed")},
                    "caller_cpu_ms": python["generator_cpu_ms_per_request"],
                }
            )
            rows.append({"caller": "C++", "workload": kind, **_loadgen(running.address, entry, concurrency, settings)})
    entry = workload("mixed")
    rows += [
        {"caller": name, "workload": "mixed", **_client(running.address, entry, requests, settings)}
        for name, requests in DIVIDED.items()
    ]
    return rows


def _client(address: str, entry: Workload, requests: int, settings: Settings) -> dict[str, Any]:
    """One thread that calls `classify_many` again and again; latencies and CPU are those of a call."""
    texts = itertools.cycle(entry.texts)
    times_s: list[float] = []
    cpu_s = began_s = 0.0
    with RejectionClient(address, ClientConfig(timeout_s=60, max_concurrent_requests=requests)) as client:
        end_s = time.perf_counter() + settings.warm_s
        for measured in (False, True):
            while (start_s := time.perf_counter()) < end_s:
                client.classify_many(list(itertools.islice(texts, CALL_TEXTS)))
                if measured:
                    times_s.append(time.perf_counter() - start_s)
            if not measured:
                began_s, cpu_s = start_s, time.process_time()
                end_s = start_s + settings.seconds
        calls, spent_s = max(1, len(times_s)), time.perf_counter() - began_s
        cpu_s = time.process_time() - cpu_s
    return {
        "concurrency": 1,
        "texts_per_s": round(CALL_TEXTS * len(times_s) / spent_s, 3),
        "latency_ms": {f"p{share}": round(1000 * float(np.percentile(times_s, share)), 3) for share in (50, 90, 99)},
        "failed": 0,
        "caller_cpu_ms": round(1000 * cpu_s / calls, 4),
    }


def _loadgen(address: str, entry: Workload, concurrency: int, settings: Settings) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.jsonl"
        texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in entry.texts), encoding="utf-8")
        loads = ["--concurrency", str(concurrency), "--seconds", f"{settings.seconds:g}"]
        done = subprocess.run(
            [LOADGEN, "--url", address, "--texts", texts, *loads, "--warmup-seconds", f"{settings.warm_s:g}"],
            capture_output=True,
            text=True,
            timeout=settings.seconds + settings.warm_s + 60,
            check=False,
        )
    if done.returncode:
        raise LoadgenError(f"the load generator in C++ ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    found = json.loads(done.stdout)
    return {
        "concurrency": concurrency,
        "texts_per_s": round(found["texts_per_s"], 3),
        "latency_ms": {share: round(found["latency_ms"][share], 3) for share in ("p50", "p90", "p99")},
        "failed": sum(found["failed"].values()),
        "caller_cpu_ms": round(found["cpu_s"] * 1000 / max(1, found["sent"]), 4),
    }


def medians(rounds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One list of rows out of several rounds' lists: the median of every figure."""
    merged = []
    for same in zip(*rounds, strict=True):
        row = dict(same[0])
        for name in ("texts_per_s", "caller_cpu_ms"):
            row[name] = round(float(np.median([one[name] for one in same])), 4)
        row["failed"] = sum(one["failed"] for one in same)
        row["latency_ms"] = {
            share: round(float(np.median([one["latency_ms"][share] for one in same])), 3) for share in ("p50", "p99")
        }
        merged.append(row)
    return merged


def in_turns(running: Running, prepared: Prepared, settings: Settings) -> list[dict[str, Any]]:
    """Medians over the rounds of `beside_python`."""
    return medians([beside_python(running, prepared, settings) for _ in range(settings.rounds)])
