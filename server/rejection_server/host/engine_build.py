"""Builds a TensorRT engine: a program of its own, because it takes minutes, gigabytes and a GPU.

    python -c 'import rejection_server.host.engine_build as build; build.main()' SETTINGS

SETTINGS is JSON of the fields of `Order`. What is being done is written to standard output, a line each; what failed,
to standard error, its last line a sentence. The same code builds with `tensorrt_rtx`, which needs no GPU.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rejection_server.wording import one_line

__all__ = ["EngineError", "Order", "build"]

PROGRESS_S = 5.0
"""Seconds between two lines of progress."""
SMALLEST_TOKENS = 128
"""Tokens of a text that kernels are chosen for, if the model takes as many: most texts are shorter than the longest."""


class EngineError(Exception):
    """TensorRT does not build the engine; the message is one sentence."""


@dataclass(frozen=True)
class Order:
    """What is to be built."""

    model: str
    """The ONNX file."""
    plan: str
    """Where the engine goes; what is at `timing` beside it is read before and written after, if named."""
    longest: int
    """Tokens of the longest text."""
    rows: int
    """Texts of the largest batch."""
    gpu: int | None = None
    """Which GPU builds; None takes none, and needs `capability`."""
    capability: str = ""
    """For tensorrt_rtx: the kind of GPU, such as SM89."""
    timing: str = ""
    """File of the timing cache, by which a second build is faster."""
    package: str = "tensorrt"

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Smallest, usual and largest shape of each input: the optimisation profile."""
        usual = min(self.longest, SMALLEST_TOKENS)
        half = max(1, self.rows // 2)
        most = self.longest * self.rows
        return {
            "input_ids": ((1,), (half * usual,), (most,)),
            "sequence_lengths": ((1, 1), (half, 1), (self.rows, 1)),
            # Counts what a request holds, which may be a whole batch; the graph takes no more columns than `longest`.
            "longest": ((1,), (usual,), (most,)),
        }


def build(order: Order, report: Callable[[str], None] = lambda _: None) -> None:
    """Write the engine; raises EngineError where TensorRT refuses, ImportError where it is not installed."""
    trt = importlib.import_module(order.package)
    log = _logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    report("reading the graph")
    if not parser.parse_from_file(order.model):
        raise EngineError(f"TensorRT {trt.__version__} does not take the graph: {_first_error(parser)}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, shapes in order.shapes.items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    config.clear_flag(trt.BuilderFlag.TF32)  # the gate of a float32 model allows for no rounding
    if order.capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, order.capability), 0)
    cache = _read_timing(config, order)
    config.progress_monitor = _monitor(trt, report)
    report("choosing kernels, which takes minutes")
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineError(f"TensorRT {trt.__version__} does not build the engine: {log.last or 'it does not say why'}")
    _write(Path(order.plan), engine)
    if cache is not None:
        _write(Path(order.timing), cache.serialize())


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # absent where types are checked
        def __init__(self) -> None:
            super().__init__()
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.last = one_line(message)
                sys.stderr.write(f"{self.last}\n")

    return Log()


def _first_error(parser: Any) -> str:
    if not parser.num_errors:
        return "it does not say why"
    error = parser.get_error(0)
    return one_line(f"{error.node_operator()} {error.node_name()}: {error.desc()}")


def _read_timing(config: Any, order: Order) -> Any:
    """The timing cache that the build adds to; None without one, which is for a build without a GPU."""
    if not order.timing:
        return None
    path = Path(order.timing)
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    return cache if config.set_timing_cache(cache, ignore_mismatch=False) else None


def _monitor(trt: Any, report: Callable[[str], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # absent where types are checked
        """Tells of the outermost phase how far it is, now and then."""

        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.told = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            now = time.monotonic()
            if phase_name in self.steps and now - self.told >= PROGRESS_S:
                self.told = now
                report(f"{phase_name}: {step + 1} of {self.steps[phase_name]}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _write(path: Path, content: Any) -> None:
    """Whole or not at all, and on the disk before it has its name."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def main() -> None:
    """Build what the command line orders; exits with 1 where that fails."""
    order = Order(**json.loads(sys.argv[1]))

    def report(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    try:
        if order.gpu is not None:
            from rejection_server.host.cuda import use

            use(order.gpu)
        build(order, report)
    except Exception as exc:  # whatever TensorRT's binding raises
        sys.stderr.write(f"{one_line(exc, 400)}\n")
        sys.exit(1)
