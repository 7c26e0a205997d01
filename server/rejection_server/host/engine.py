"""TensorRT engines for the GPUs that serve: built at the first start, kept, and put into the repository that is served.

An engine is for one kind of GPU and one version of TensorRT, so a repository holds the graph it is built from, and each
machine builds its own. It is kept in a folder named after all that it depends on:

    CACHE/nvidia-l4-8.9-tensorrt-11.4.0-0123456789abcdef/model.plan
    CACHE/nvidia-l4-8.9-tensorrt-11.4.0.timing
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rejection_server.facts import FACTS
from rejection_server.host.cuda import Gpu
from rejection_server.host.engine_build import Order
from rejection_server.host.errors import HostError, RepositoryError, UnsupportedMachineError
from rejection_server.host.links import CONFIG, link_all, linked_repository
from rejection_server.host.locate import Triton
from rejection_server.prepare.checksum import digest
from rejection_server.prepared_for import NO_BACKEND
from rejection_server.wording import last_line

__all__ = ["PLAN", "EngineMaker", "engine_name", "folder_name", "linked_with_plans", "order_of"]

BACKEND = "tensorrt"
PACKAGES = ("tensorrt", "tensorrt_bindings")
"""What TensorRT's Python package may be called: whole, or the binding alone, for the libraries that Triton brings."""
PLAN = "model.plan"
ASK_S = 120.0
"""Seconds that TensorRT may take to be imported."""
BUILD = "import rejection_server.host.engine_build as build; build.main()"
KEY_DIGITS = 16

Capability = tuple[int, int]


def order_of(version: Path) -> Order:
    """What engine the classifier in `version`, a folder of its repository, needs; raises RepositoryError."""
    try:
        longest = json.loads((version / FACTS).read_text(encoding="utf-8"))["model_max_length"]
        rows = _read_config(version).max_batch_size
        return Order(model=str((version / "model.onnx").resolve(strict=True)), plan="", longest=int(longest), rows=rows)
    except (OSError, ValueError, KeyError, TypeError, text_format.ParseError) as exc:
        raise RepositoryError(
            f"{version} and its {CONFIG} do not say what engine to build ({exc}): prepare the model again"
        ) from exc


def engine_name(gpu: Gpu, version: str) -> str:
    """What kind of GPU and which TensorRT an engine is for, fit for the name of a file."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    return f"{slug}-{gpu.capability[0]}.{gpu.capability[1]}-{BACKEND}-{version}"


def folder_name(gpu: Gpu, version: str, order: Order) -> str:
    """Where the engine is kept: what it is for, what it is built of and how large its batches are."""
    graph = digest(Path(order.model))[:KEY_DIGITS]
    return f"{engine_name(gpu, version)}-{graph}-{order.rows}x{order.longest}"


def users_cache() -> Path:
    """Where engines are kept unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rejection-server" / "engines"


class EngineMaker:
    """Has engines for all GPUs of this machine, or builds them; `stop` ends a build from another thread or a handler.

    Args:
        cache: folder that engines are kept in; None is this user's.
        report: told what is being done, a line each.
    """

    def __init__(self, cache: Path | None, report: Callable[[str], None]) -> None:
        self._cache = cache or users_cache()
        self._report = report
        self._building: subprocess.Popen[str] | None = None
        self._stopped = False

    def engines(
        self, triton: Triton, gpus: Sequence[Gpu], orders: Mapping[Path, Order]
    ) -> Mapping[Path, Mapping[Capability, Path]]:
        """The engines that are ordered, for each compute capability among the GPUs.

        Raises UnsupportedMachineError where Triton's backend or TensorRT is missing, HostError where none can be built.
        """
        if triton.backends is None or not (triton.backends / BACKEND).is_dir():
            raise UnsupportedMachineError(NO_BACKEND)
        package = next((name for name in PACKAGES if importlib.util.find_spec(name)), None)
        if package is None:
            raise UnsupportedMachineError(
                f"the Python package {BACKEND}, which builds the engine, is not installed in {sys.prefix}: install the "
                "version that belongs to this Triton, as docker/Dockerfile.triton does with --build-arg TENSORRT"
            )
        kinds: dict[Capability, Gpu] = {}
        for gpu in gpus:
            kinds.setdefault(gpu.capability, gpu)
        version = _version(package)
        return {
            key: {
                capability: self._engine(gpu, version, replace(order, package=package))
                for capability, gpu in kinds.items()
            }
            for key, order in orders.items()
        }

    def stop(self) -> None:
        """End the build under way, and begin none; safe in a signal handler."""
        self._stopped = True
        if self._building is not None:
            self._building.terminate()

    def _engine(self, gpu: Gpu, version: str, order: Order) -> Path:
        name = engine_name(gpu, version)
        folder = self._cache / folder_name(gpu, version, order)
        plan = folder / PLAN
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "lock").open("w") as lock:
                self._wait_for(lock.fileno(), name)
                if not plan.exists():
                    timing = self._cache / f"{name}.timing"
                    self._build(replace(order, plan=str(plan), gpu=gpu.index, timing=str(timing)), gpu, version)
        except OSError as exc:
            raise HostError(
                f"the folder {self._cache}, which TensorRT's engines are kept in, cannot be written to "
                f"({exc.strerror}): name another with --engine-cache"
            ) from exc
        return plan

    def _wait_for(self, lock: int, name: str) -> None:
        """Let one start build at a time."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._report(f"waiting for another start that builds the engine {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)

    def _build(self, order: Order, gpu: Gpu, version: str) -> None:
        self._report(f"building the TensorRT {version} engine for {gpu.name}, once; kept in {Path(order.plan).parent}")
        begin = time.monotonic()
        self._building = subprocess.Popen(
            [sys.executable, "-P", "-c", BUILD, json.dumps(asdict(order))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
        )
        errors: list[str] = []
        with self._building as process:
            assert process.stdout is not None
            assert process.stderr is not None
            reader = threading.Thread(target=lambda lines: errors.extend(lines), args=(process.stderr,), daemon=True)
            reader.start()
            try:
                if self._stopped:  # in the moment before it was there
                    process.terminate()
                for line in process.stdout:
                    self._report(f"TensorRT: {line.strip()} ({time.monotonic() - begin:.0f} s)")
                process.wait()
            except BaseException:
                process.kill()
                raise
            reader.join()
        self._building = None
        if self._stopped:
            raise HostError("stopped while the TensorRT engine was being built; the next start builds it")
        if process.returncode != 0:
            said = [line.strip() for line in errors if line.strip()] or [f"it ended with status {process.returncode}"]
            raise HostError(f"the TensorRT engine for {gpu.name} cannot be built: {said[-1][:400]}")
        self._report(f"the engine is built ({time.monotonic() - begin:.0f} s)")


def _version(package: str) -> str:
    """TensorRT's version, asked of its package in another process: its libraries are large."""
    asked = [sys.executable, "-P", "-c", f"import {package}; print({package}.__version__)"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=ASK_S)
    except subprocess.TimeoutExpired as exc:
        raise UnsupportedMachineError(
            f"TensorRT did not answer within {ASK_S:g} s: look at the GPU with nvidia-smi, and start again"
        ) from exc
    if done.returncode != 0:
        raise UnsupportedMachineError(
            f"the Python package {package} cannot be used ({last_line(done.stderr)}): install the version that belongs "
            "to this Triton"
        )
    return done.stdout.split()[-1]


def linked_with_plans(repository: Path, version: Path, plans: Mapping[Capability, Path], folder: Path) -> Path:
    """Write to `folder` the repository as links, with the engines in the classifier's `version` folder.

    Where GPUs differ, Triton takes the engine by its compute capability (`cc_model_filenames`). Returns `folder`.
    """
    config = _read_config(version)
    files = {PLAN if len(plans) == 1 else f"model-{major}.{minor}.plan": plan for (major, minor), plan in plans.items()}
    if len(plans) > 1:
        for (major, minor), name in zip(plans, files, strict=True):
            config.cc_model_filenames[f"{major}.{minor}"] = name
    linked_repository(repository, folder, {version.parent.name: text_format.MessageToString(config)})
    inside = folder / version.parent.name / version.name
    inside.unlink()
    link_all(version.iterdir(), inside)
    for name, plan in files.items():
        (inside / name).symlink_to(plan.resolve())
    return folder


def _read_config(version: Path) -> Any:
    text = (version.parent / CONFIG).read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())
