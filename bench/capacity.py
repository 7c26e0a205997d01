"""The load generator's own cost and limit, against a gRPC server that answers at once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.compose import short_texts
from bench.generator import Generator
from bench.load import Load
from bench.paths import ROOT
from bench.triton import TritonCaller

CALLERS = 32
STAND_IN = Path(__file__).with_name("client_cost.py")


def capacity(seconds: float) -> dict[str, Any]:
    """Requests per second to the stand-in, and CPU of the generator for each, milliseconds."""
    texts = short_texts(256)
    load = Load(texts, batch=1, seconds=seconds, warm_s=0.5, concurrency=CALLERS)
    with _stand_in() as address, Generator(TritonCaller(address)) as generator:
        result = generator.run(load, np.full((len(texts), 2), np.nan), lambda _: None)
    inside = (result.recorded.done >= result.begin) & (result.recorded.done < result.end)
    requests, elapsed_s = int(inside.sum()), result.end - result.begin
    return {
        "requests_per_s": round(requests / elapsed_s, 1),
        "cpu_ms_per_request": round(result.cpu_s * 1000 / max(1, requests), 4),
        "busy": round(result.cpu_s / elapsed_s, 3),
        "failed": result.recorded.failed,
    }


@contextmanager
def _stand_in() -> Iterator[str]:
    """Address of a server that gives every text the same answer at once."""
    process = subprocess.Popen(
        [sys.executable, STAND_IN, "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(10)
