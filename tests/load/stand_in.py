"""A server that gives every text the same answer at once, so that what is measured is the caller: `running()`.

As a program, `python -m load.stand_in THREADS`, it serves until standard input ends; its port goes to standard output.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from rejection_client.protocol import bytes_tensor


class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated, untyped
    """Answers at once, as the served model would."""

    def ServerMetadata(self, _request: Any, _context: Any) -> Any:
        return service_pb2.ServerMetadataResponse(name="stand-in", version="1")

    def ModelMetadata(self, request: Any, _context: Any) -> Any:
        return service_pb2.ModelMetadataResponse(name=request.name, versions=["1"])

    def ModelConfig(self, _request: Any, _context: Any) -> Any:
        response = service_pb2.ModelConfigResponse()
        response.config.max_batch_size = 64
        response.config.parameters["model_max_length"].string_value = "512"
        return response

    def ModelInfer(self, request: Any, _context: Any) -> Any:
        rows = request.inputs[0].shape[0]
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        if "classification" in request.outputs[0].parameters:
            response.outputs.add(name="probabilities", datatype="BYTES", shape=[1, 2])
            response.raw_output_contents.append(bytes_tensor([b"0.75:1:REJECTION", b"0.25:0:NORMAL"]))
            return response
        response.outputs.add(name="probabilities", datatype="FP32", shape=[rows, 2])
        response.raw_output_contents.append(b"\0\0\x80\x3e\0\0\x40\x3f" * rows)  # 0.25, 0.75
        response.outputs.add(name="token_count", datatype="INT32", shape=[rows, 1])
        response.raw_output_contents.append(b"\x0c\0\0\0" * rows)
        return response

    def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        for request in request_iterator:
            yield service_pb2.ModelStreamInferResponse(infer_response=self.ModelInfer(request, context))


@contextmanager
def running(threads: int = 64) -> Iterator[str]:
    """Address of the stand-in, in a process of its own until the block ends.

    A stream keeps one of its `threads` as long as it lasts. Ctrl-C does not reach it: who measures ends it.
    """
    command = [sys.executable, "-m", "load.stand_in", str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def main() -> None:
    """Serve."""
    server = grpc.server(ThreadPoolExecutor(int(sys.argv[1])))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(StandIn(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
