"""What the Python client costs, measured; `scripts/bench client` runs it.

The server is a process of its own that gives every text the same answer at once, so that all the CPU counted here is
the client's. Overhead is CPU of this process (user and system, all threads) for `classify` less that of the bare stub
with a request made beforehand, in turns, the median of several rounds.
"""

import argparse
import asyncio
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from rejection_client import AsyncRejectionClient, RejectionClient, protocol

OVERHEAD_LIMIT_MS = 0.3
IMPORT_LIMIT_S = 0.4
MEMORY_LIMIT_MB = 50
ROUNDS = 7
TEXT = "Sorry, but I can't assist with that."


class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated, untyped
    """Answers at once, as the served model would."""

    def ModelReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerMetadataResponse(name="stand-in", version="1")

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelMetadataResponse(name=request.name, versions=["1"])

    def ModelConfig(self, request: Any, context: Any) -> Any:
        response = service_pb2.ModelConfigResponse()
        response.config.max_batch_size = 64
        response.config.parameters["model_max_length"].string_value = "512"
        return response

    def ModelInfer(self, request: Any, context: Any) -> Any:
        rows = request.inputs[0].shape[0]
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        if "classification" in request.outputs[0].parameters:
            response.outputs.add(name="probabilities", datatype="BYTES", shape=[1, 2])
            labels = (b"0.75:1:REJECTION", b"0.25:0:NORMAL")
            response.raw_output_contents.append(b"".join(len(x).to_bytes(4, "little") + x for x in labels))
            return response
        response.outputs.add(name="probabilities", datatype="FP32", shape=[rows, 2])
        response.raw_output_contents.append(b"\0\0\x80\x3e\0\0\x40\x3f" * rows)  # 0.25, 0.75
        response.outputs.add(name="token_count", datatype="INT32", shape=[rows, 1])
        response.raw_output_contents.append(b"\x0c\0\0\0" * rows)
        return response


def serve() -> None:
    """Run the stand-in until standard input ends; its port goes to standard output."""
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(StandIn(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop(None)


def cpu_ms(call: Callable[[], Any], count: int) -> float:
    """CPU of this process for one of `count` calls, milliseconds."""
    started_s = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - started_s) / count * 1000


def overhead_ms(address: str, calls: int) -> float:
    """CPU of `RejectionClient.classify` beyond the bare stub."""
    each = max(50, calls // ROUNDS)
    request = protocol.infer_request("rejection", [TEXT])
    with grpc.insecure_channel(address) as channel, RejectionClient(address) as client:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def bare() -> None:
            stub.ModelInfer(request, timeout=10)

        def ours() -> None:
            client.classify(TEXT)

        cpu_ms(bare, 50)
        cpu_ms(ours, 50)
        return statistics.median(cpu_ms(ours, each) - cpu_ms(bare, each) for _ in range(ROUNDS))


async def async_overhead_ms(address: str, calls: int) -> float:
    """CPU of `AsyncRejectionClient.classify` beyond the bare asynchronous stub."""
    each = max(50, calls // ROUNDS)
    request = protocol.infer_request("rejection", [TEXT])
    async with grpc.aio.insecure_channel(address) as channel, AsyncRejectionClient(address) as client:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def measure(ours: bool, count: int) -> float:
            started_s = time.process_time()
            for _ in range(count):
                await (client.classify(TEXT) if ours else stub.ModelInfer(request, timeout=10))
            return (time.process_time() - started_s) / count * 1000

        await measure(True, 50)
        await measure(False, 50)
        return statistics.median([await measure(True, each) - await measure(False, each) for _ in range(ROUNDS)])


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
        assert len(predictions) == texts
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if something is over its limit."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench client",
        description="Measure the Python client against a stand-in that answers at once: CPU of a call beyond a bare "
        "gRPC stub, time to import, memory of many texts. The exit code is 1 if a figure is over its limit.",
    )
    parser.add_argument("--calls", type=int, default=3500, help="calls for the overhead (3500)")
    parser.add_argument("--texts", type=int, default=10_000, help="texts for the memory (10000)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.serve:
        serve()
        return 0
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        address = f"127.0.0.1:{int(server.stdout.readline())}"
        # Memory first: the peak of what follows would hide it.
        figures = [
            (
                f"memory of classify_many, {options.texts:,} texts",
                memory_mb(address, options.texts),
                MEMORY_LIMIT_MB,
                "MB",
            ),
            ("CPU of classify beyond a bare stub", overhead_ms(address, options.calls), OVERHEAD_LIMIT_MS, "ms"),
            ("the same, asyncio", asyncio.run(async_overhead_ms(address, options.calls)), OVERHEAD_LIMIT_MS, "ms"),
            ("CPU of importing rejection_client", import_s(), IMPORT_LIMIT_S, "s"),
        ]
    finally:
        server.stdin.close()
        server.wait(10)
    for name, value, limit, unit in figures:
        sys.stdout.write(f"{name:<46} {value:8.3f} {unit:<2}  limit {limit:g} {unit}\n")
    return int(any(value > limit for _, value, limit, _ in figures))


if __name__ == "__main__":
    sys.exit(main())
