"""onnxruntime with the provider that is measured: sessions, and runs with what they need on the GPU already."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from rejection_server.host.gpu import cuda_session


def session(model: Path | bytes, *, dry: bool, exact: bool = False) -> Any:
    """A session on the GPU, or with `dry` on the processor; `exact` keeps float32 products from being rounded to TF32.

    Raises GpuError, in a sentence, where onnxruntime would fall back to the processor.
    """
    if not dry:
        return cuda_session(model, exact=exact)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    given = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def plain(runner: Any, feed: Mapping[str, NDArray[Any]]) -> Callable[[], Any]:
    """A run as a server calls it: arrays in, arrays out."""
    return lambda: runner.run(["logits"], dict(feed))


def bound(runner: Any, feed: Mapping[str, NDArray[Any]], device: str) -> Callable[[], Any]:
    """A run whose inputs lie on the GPU already and whose few outputs come to the processor."""
    binding = runner.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0))
    binding.bind_output("logits", "cpu")

    def run() -> Any:
        runner.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()

    return run


def median_s(work: Callable[[], Any], window_s: float, warm: int = 3) -> tuple[float, int]:
    """Median time of a call that returns when its work is done, seconds, and of how many calls."""
    for _ in range(warm):
        work()
    times: list[float] = []
    end = time.monotonic() + window_s
    while len(times) < 3 or time.monotonic() < end:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times), len(times)
