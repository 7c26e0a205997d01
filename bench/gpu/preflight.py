"""Whether this machine can measure a GPU: driver, memory, libraries, onnxruntime's provider; what the GPU can do."""

import platform
import subprocess
import time
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from bench import machine
from bench.gpu.plan import GpuSettings
from bench.gpu.results import Add
from bench.gpu.runtime import session

LEAST_FREE_GB = 4.0
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10G": 70.0, "T4": 65.0}
"""Dense float16 TFLOP/s by the data sheet; the first name that the GPU's own holds."""
SIZE = 8192


def check(settings: GpuSettings, add: Add) -> None:
    """Tell the machine's facts; raises RuntimeError, in a sentence, for the first thing that is missing."""
    add("machine", **machine.hardware(), **{f"version of {name}": at for name, at in machine.versions().items()})
    if settings.dry:
        runtime(settings.dry)
        return
    gpu = _gpu()
    add("gpu", **gpu)
    if gpu["free_gb"] < LEAST_FREE_GB:
        raise RuntimeError(
            f"the GPU has {gpu['free_gb']} GB free of {gpu['memory_gb']}, {LEAST_FREE_GB:g} are needed: end what else "
            "uses it (nvidia-smi names it)"
        )
    add("provider", **runtime(settings.dry))
    add("ceiling", **ceiling())


def _gpu() -> dict[str, Any]:
    """Name, memory and driver of the first GPU."""
    query = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,compute_cap,memory.total,memory.free",
        "--format=csv,noheader,nounits",
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as exc:
        raise RuntimeError(
            f"no GPU answers here ({type(exc).__name__} of nvidia-smi): install NVIDIA's driver, or give the container "
            "the GPU (docker run --gpus all)"
        ) from exc
    name, driver, capability, total, free = (field.strip() for field in done.stdout.splitlines()[0].split(","))
    peak = next((value for key, value in PEAKS.items() if key in name), None)
    return {
        "name": name,
        "driver": driver,
        "compute_capability": capability,
        "memory_gb": round(float(total) / 1024, 1),
        "free_gb": round(float(free) / 1024, 1),
        "datasheet_tflops": peak,
    }


def runtime(dry: bool) -> dict[str, Any]:
    """Have onnxruntime multiply two matrices with the provider that is measured."""
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [64, 64]) for name in "abc"]
    model = helper.make_model(
        helper.make_graph([node], "product", values[:2], values[2:]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    begin = time.monotonic()
    ones = np.ones((64, 64), np.float16)
    runner = session(model.SerializeToString(), dry=dry)
    (product,) = runner.run(["c"], {"a": ones, "b": ones})
    if not np.array_equal(product, np.full((64, 64), 64, np.float16)):
        raise RuntimeError("a product of two matrices came out wrong on the GPU: its driver or libraries do not fit")
    import onnxruntime

    return {
        "onnxruntime": onnxruntime.__version__,
        "providers": ", ".join(runner.get_providers()),
        "seconds": round(time.monotonic() - begin, 2),
        "system": platform.platform(),
    }


def ceiling() -> dict[str, Any]:
    """What a large product of random float16 matrices reaches, TFLOP/s, and a large copy, TB/s: the real ceilings."""
    import torch

    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.float16) for _ in range(2))
    product_s = _median_s(torch, lambda: a @ b)
    source = torch.empty(2**30, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    copy_s = _median_s(torch, lambda: target.copy_(source))
    return {
        "product_tflops": round(2 * SIZE**3 / product_s / 1e12, 1),
        "copy_tb_per_s": round(2 * 2**30 / copy_s / 1e12, 2),
        "torch": torch.__version__,
    }


def _median_s(torch: Any, work: Any) -> float:
    times = []
    for number in range(25):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        if number >= 5:
            times.append(begin.elapsed_time(end) / 1000)
    return float(np.median(times))
