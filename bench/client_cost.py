"""What calling costs, against a server that answers at once: the Python client, and the load generator itself.

Overhead is CPU of this process (user and system, all threads) for `classify` less that of the bare stub with a request
made beforehand, in turns, the median of several rounds.
"""

import asyncio
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2_grpc

from bench.compose import short_texts
from bench.generator import Generator
from bench.load import Load
from bench.triton import TritonCaller
from load import stand_in
from rejection_client import AsyncRejectionClient, RejectionClient, protocol

ROUNDS = 7
WARM_CALLS = 50
GENERATOR_CALLERS = 32
SERVER_THREADS = 4
TEXT = "Sorry, but I can't assist with that."


def capacity(seconds: float) -> dict[str, float]:
    """What the load generator itself can do: requests per second, and CPU for each, milliseconds."""
    texts = short_texts(256)
    load = Load(texts, seconds=seconds, warm_s=0.5, concurrency=GENERATOR_CALLERS)
    with stand_in.running(SERVER_THREADS) as address, Generator(TritonCaller(address)) as generator:
        result = generator.run(load, np.full((len(texts), 2), np.nan))
    requests = int(result.recorded.inside().sum())
    return {
        "requests_per_s": round(requests / (result.recorded.end - result.recorded.begin), 1),
        "cpu_ms_per_request": round(result.cpu_s * 1000 / max(1, requests), 4),
        "failed": result.recorded.failed,
    }


async def overheads_ms(address: str, calls: int) -> tuple[float, float]:
    """CPU of `classify` beyond the bare stub, of `RejectionClient` and of `AsyncRejectionClient`."""
    request = protocol.infer_request("rejection", [TEXT])
    with grpc.insecure_channel(address) as channel, RejectionClient(address) as client:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        async def ours() -> None:
            client.classify(TEXT)

        async def bare() -> None:
            infer(request, timeout=10)

        blocking = await _overhead_ms(ours, bare, calls)
    async with grpc.aio.insecure_channel(address) as aio_channel, AsyncRejectionClient(address) as aio:
        call = service_pb2_grpc.GRPCInferenceServiceStub(aio_channel).ModelInfer
        return blocking, await _overhead_ms(lambda: aio.classify(TEXT), lambda: call(request, timeout=10), calls)


async def _overhead_ms(ours: Callable[[], Awaitable[Any]], bare: Callable[[], Awaitable[Any]], calls: int) -> float:
    async def cpu_ms(call: Callable[[], Awaitable[Any]], count: int) -> float:
        started_s = time.process_time()
        for _ in range(count):
            await call()
        return (time.process_time() - started_s) / count * 1000

    each = max(WARM_CALLS, calls // ROUNDS)
    rounds = [await cpu_ms(ours, count) - await cpu_ms(bare, count) for count in (WARM_CALLS, *[each] * ROUNDS)]
    return statistics.median(rounds[1:])


def import_s() -> float:
    """CPU of importing the package in a new process, the best of three."""
    code = "import time; t = time.process_time(); import rejection_client; print(time.process_time() - t)"
    return min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in "123"
    )


def memory_mb(address: str, texts: int) -> float:
    """How far `classify_many` takes the peak of this process's memory above that with the texts alone."""
    with RejectionClient(address) as client:
        client.classify(TEXT)
        given = [f"{number}: {TEXT * 10}" for number in range(texts)]
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        predictions = client.classify_many(given)
        if len(predictions) != texts:
            raise RuntimeError(f"classify_many answered {len(predictions)} of {texts} texts")
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024


def report(calls: int, texts: int) -> int:
    """Measure the client and print; 1 if something is over its limit."""
    with stand_in.running(SERVER_THREADS) as address:
        # Memory first: the peak of what follows would hide it.
        memory = memory_mb(address, texts)
        blocking_ms, asyncio_ms = asyncio.run(overheads_ms(address, calls))
        figures = [
            (f"memory of classify_many, {texts:,} texts", memory, 50, "MB"),
            ("CPU of classify beyond a bare stub", blocking_ms, 0.3, "ms"),
            ("the same, asyncio", asyncio_ms, 0.3, "ms"),
            ("CPU of importing rejection_client", import_s(), 0.4, "s"),
        ]
    for name, value, limit, unit in figures:
        sys.stdout.write(f"{name:<46} {value:8.3f} {unit:<2}  limit {limit:g} {unit}\n")
    return int(any(value > limit for _, value, limit, _ in figures))
