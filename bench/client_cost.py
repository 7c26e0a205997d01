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

from bench import stand_in
from bench.compose import short_texts
from bench.generator import Generator
from bench.load import Load
from bench.triton import TritonCaller
from rejection_client import AsyncRejectionClient, RejectionClient, protocol

ROUNDS = 7
WARM_CALLS = 50
GENERATOR_CALLERS = 32
TEXT = "Sorry, but I can't assist with that."


def capacity(seconds: float) -> dict[str, float]:
    """What the load generator itself can do: requests per second, and CPU for each, milliseconds."""
    texts = short_texts(256)
    load = Load(texts, seconds=seconds, warm_s=0.5, concurrency=GENERATOR_CALLERS)
    with stand_in.running() as address, Generator(TritonCaller(address)) as generator:
        result = generator.run(load, np.full((len(texts), 2), np.nan))
    requests = int(result.recorded.inside().sum())
    return {
        "requests_per_s": round(requests / (result.recorded.end - result.recorded.begin), 1),
        "cpu_ms_per_request": round(result.cpu_s * 1000 / max(1, requests), 4),
        "failed": result.recorded.failed,
    }


def overhead_ms(address: str, calls: int) -> float:
    """CPU of `RejectionClient.classify` beyond the bare stub."""
    request = protocol.infer_request("rejection", [TEXT])
    with grpc.insecure_channel(address) as channel, RejectionClient(address) as client:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        def measure(call: Callable[[], Any], count: int) -> float:
            started_s = time.process_time()
            for _ in range(count):
                call()
            return (time.process_time() - started_s) / count * 1000

        def round_ms(count: int) -> float:
            return measure(lambda: client.classify(TEXT), count) - measure(lambda: infer(request, timeout=10), count)

        round_ms(WARM_CALLS)
        return statistics.median(round_ms(max(WARM_CALLS, calls // ROUNDS)) for _ in range(ROUNDS))


async def async_overhead_ms(address: str, calls: int) -> float:
    """CPU of `AsyncRejectionClient.classify` beyond the bare asynchronous stub."""
    request = protocol.infer_request("rejection", [TEXT])
    async with grpc.aio.insecure_channel(address) as channel, AsyncRejectionClient(address) as client:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        async def measure(call: Callable[[], Awaitable[Any]], count: int) -> float:
            started_s = time.process_time()
            for _ in range(count):
                await call()
            return (time.process_time() - started_s) / count * 1000

        async def round_ms(count: int) -> float:
            ours = await measure(lambda: client.classify(TEXT), count)
            return ours - await measure(lambda: infer(request, timeout=10), count)

        await round_ms(WARM_CALLS)
        return statistics.median([await round_ms(max(WARM_CALLS, calls // ROUNDS)) for _ in range(ROUNDS)])


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
    with stand_in.running() as address:
        # Memory first: the peak of what follows would hide it.
        figures = [
            (f"memory of classify_many, {texts:,} texts", memory_mb(address, texts), 50, "MB"),
            ("CPU of classify beyond a bare stub", overhead_ms(address, calls), 0.3, "ms"),
            ("the same, asyncio", asyncio.run(async_overhead_ms(address, calls)), 0.3, "ms"),
            ("CPU of importing rejection_client", import_s(), 0.4, "s"),
        ]
    for name, value, limit, unit in figures:
        sys.stdout.write(f"{name:<46} {value:8.3f} {unit:<2}  limit {limit:g} {unit}\n")
    return int(any(value > limit for _, value, limit, _ in figures))
