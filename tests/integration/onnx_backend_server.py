"""A real Triton with the stand-in `onnxruntime` backend, on a repository that the tests fill.

Model control is explicit: a test writes a model's folder and loads it over gRPC.
"""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray

from rejection_server.host import ServeOptions, Server

CALL_TIMEOUT_S = 60.0
_LOG_TIMEOUT_S = 10.0
_STATISTICS_DELAY_S = 0.3
"""Triton counts an execution only after its answers are on their way."""

Arrays = dict[str, NDArray[Any]]
Outcome = Any
"""An `InferResult`, or the exception in its place."""


class _Administrator(grpcclient.InferenceServerClientPlugin):  # type: ignore[misc]  # untyped
    """Sends what opens administration with every call."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata

    def __call__(self, request: Any) -> None:
        request.headers.update(self._metadata)


class BackendServer:
    """A running Triton: where its repository is, what it logged, and a client to it."""

    def __init__(self, repository: Path, log: Path, triton: Server) -> None:
        self.repository = repository
        self._log = log
        self.address = triton.grpc_address
        self.client = grpcclient.InferenceServerClient(self.address)
        self.client.register_plugin(_Administrator(triton.admin_metadata))

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for_log(self, pattern: str) -> None:
        """Wait until the log matches: a model's own lines reach it a little later than its answers arrive here."""
        deadline = time.monotonic() + _LOG_TIMEOUT_S
        while not re.search(pattern, self.log):
            assert time.monotonic() < deadline, f"no {pattern!r} in Triton's log"
            time.sleep(0.05)

    def load(self, name: str, model: onnx.ModelProto | bytes | None, config: str | None) -> None:
        """Write a model's folder, with `model.onnx` and `config.pbtxt` unless None, and load it."""
        version = self.repository / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        if model is not None:
            content = model if isinstance(model, bytes) else model.SerializeToString()
            (version / "model.onnx").write_bytes(content)
        if config is not None:
            (self.repository / name / "config.pbtxt").write_text(f'backend: "onnxruntime"\n{config}')
        self.client.load_model(name, client_timeout=CALL_TIMEOUT_S)

    def infer(self, name: str, inputs: Arrays, outputs: list[str] | None = None) -> grpcclient.InferResult:
        requested = [grpcclient.InferRequestedOutput(output) for output in outputs] if outputs else None
        return self.client.infer(name, triton_inputs(inputs), outputs=requested, client_timeout=CALL_TIMEOUT_S)

    def infer_at_once(self, name: str, requests: list[Arrays]) -> list[Outcome]:
        """Send all requests before waiting for the first answer; return each result or error, in order."""
        outcomes: dict[int, Outcome] = {}
        answered = threading.Semaphore(0)

        def answer(index: int, result: grpcclient.InferResult | None, error: Exception | None) -> None:
            outcomes[index] = error if result is None else result
            answered.release()

        for index, inputs in enumerate(requests):
            self.client.async_infer(
                name,
                triton_inputs(inputs),
                lambda result, error, index=index: answer(index, result, error),
                client_timeout=CALL_TIMEOUT_S,
            )
        for _ in requests:
            assert answered.acquire(timeout=CALL_TIMEOUT_S)
        return [outcomes[index] for index in range(len(requests))]

    def statistics(self, name: str) -> tuple[int, int]:
        """Return how many rows the model has inferred, and in how many executions."""
        time.sleep(_STATISTICS_DELAY_S)
        stats = self.client.get_inference_statistics(name).model_stats[0]
        return stats.inference_count, stats.execution_count


def triton_inputs(arrays: Arrays) -> list[grpcclient.InferInput]:
    inputs = []
    for name, array in arrays.items():
        inputs.append(grpcclient.InferInput(name, array.shape, grpcclient.np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    return inputs


@contextmanager
def running_server(folder: Path, *options: str) -> Iterator[BackendServer]:
    """Run Triton on an empty repository under `folder`, with further `options`, until the block ends."""
    repository = folder / "repository"
    (repository / "not_loaded").mkdir(parents=True)  # the host refuses a repository without models
    serve_options = ServeOptions(
        repository=repository,
        grpc_port=0,
        guard=False,  # the models are called as they are, and come and go
        metrics_port=None,
        log_level="info",
        log_path=folder / "triton.log",
        triton_arguments=("--model-control-mode=explicit", *options),
    )
    with Server(serve_options) as triton:
        server = BackendServer(repository, folder / "triton.log", triton)
        yield server
        server.client.close()
        triton.kill()  # after a call that was cancelled Triton 2.51 may wait for its whole exit timeout
