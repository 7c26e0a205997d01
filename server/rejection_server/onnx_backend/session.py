"""Create the onnxruntime session that a model configuration describes."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rejection_server.onnx_backend.config import ModelConfig
from rejection_server.onnx_backend.messages import client_sentence
from rejection_server.onnx_backend.refusal import INTERNAL, UNAVAILABLE, LoadRefusedError

Provider = tuple[str, dict[str, str]]

_GRAPH_LEVELS = {-1: "ORT_ENABLE_BASIC", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}
_DEVICE_ALLOCATOR = "session.use_device_allocator_for_initializers"
_ARENA_SHRINKAGE = "memory.enable_memory_arena_shrinkage"
_CUDNN_SEARCH = {0: "EXHAUSTIVE", 1: "HEURISTIC", 2: "DEFAULT"}
_ARENA_STRATEGY = {0: "kNextPowerOfTwo", 1: "kSameAsRequested"}


@dataclass(frozen=True)
class SessionSettings:
    """What the configuration says about a session, checked; None and 0 leave onnxruntime's default."""

    graph_level: str
    parallel: bool
    intra_op_threads: int
    inter_op_threads: int
    memory_arena: bool | None
    memory_pattern: bool | None


@dataclass(frozen=True)
class ModelFile:
    """A model's ONNX file."""

    path: Path
    shown: str
    """The file's name in messages: `MODEL/VERSION/FILE`, the path inside the repository."""


def read_settings(config: ModelConfig) -> SessionSettings:
    """Read the session's settings from `parameters` and `optimization`; unknown parameters are ignored.

    Raises:
        LoadRefusedError: A value is not of its type or range.
    """
    execution_mode = config.integer("execution_mode")
    if execution_mode not in (0, 1):
        raise LoadRefusedError(
            "Invalid configuration value provided. Expected values for execution_mode are 0 or 1 but got "
            f"{execution_mode}."
        )
    settings = SessionSettings(
        graph_level=_GRAPH_LEVELS.get(config.graph_level, "ORT_ENABLE_ALL"),
        parallel=execution_mode == 1,
        intra_op_threads=max(config.integer("intra_op_thread_count"), 0),
        inter_op_threads=max(config.integer("inter_op_thread_count"), 0),
        memory_arena=config.boolean("enable_mem_arena"),
        memory_pattern=config.boolean("enable_mem_pattern"),
    )
    # Instances are processes of their own here and cannot share a session; a wrong value is refused all the same.
    config.boolean("share_session_between_instances")
    return settings


def find_model_file(config: ModelConfig, version_folder: Path) -> ModelFile:
    """Find the ONNX file of a model in the folder of one version.

    Raises:
        LoadRefusedError: There is none.
    """
    path = version_folder / config.default_model_filename
    shown = f"{config.name}/{version_folder.name}/{config.default_model_filename}"
    if not path.exists():
        raise LoadRefusedError(f"failed to stat file {shown}", INTERNAL)
    if not path.is_dir():
        return ModelFile(path, shown)
    inner = ModelFile(path / "model.onnx", f"{shown}/model.onnx")
    if not inner.path.exists():
        raise LoadRefusedError(f"unable to find '{inner.shown}' for model instance '{config.name}'", UNAVAILABLE)
    return inner


def execution_providers(config: ModelConfig, kind: str, device_id: int, offered: Collection[str]) -> list[Provider]:
    """Choose onnxruntime's execution providers for an instance.

    Args:
        config: The model's configuration.
        kind: The instance's kind without `KIND_`: GPU, CPU, MODEL or AUTO; only GPU leaves the CPU.
        device_id: The GPU's number.
        offered: What this onnxruntime offers.

    Raises:
        LoadRefusedError: A provider is asked for that onnxruntime does not offer.
    """
    providers: list[Provider] = []
    if kind == "GPU":
        if "CUDAExecutionProvider" not in offered:
            raise LoadRefusedError(
                f"unable to load model '{config.name}', instance_group asks for KIND_GPU but the installed onnxruntime "
                "offers no CUDAExecutionProvider; install onnxruntime-gpu or use KIND_CPU"
            )
        providers.append(("CUDAExecutionProvider", _cuda_options(config, device_id)))
    for accelerator in config.cpu_accelerators:
        if accelerator.name != "openvino":
            raise LoadRefusedError(f"unknown Execution Accelerator '{accelerator.name}' is requested")
        if "OpenVINOExecutionProvider" not in offered:
            raise LoadRefusedError(
                f"unable to load model '{config.name}', Execution Accelerator 'openvino' is requested but the "
                "installed onnxruntime offers no OpenVINOExecutionProvider"
            )
        providers.append(("OpenVINOExecutionProvider", {"device_type": "CPU"}))
    return [*providers, ("CPUExecutionProvider", {})]


def create_session(config: ModelConfig, settings: SessionSettings, file: ModelFile, providers: list[Provider]) -> Any:
    """Load the model; return an `onnxruntime.InferenceSession`.

    Raises:
        LoadRefusedError: onnxruntime cannot load the file, or not with the first of `providers`.
    """
    import onnxruntime as ort  # here, because a complete configuration needs no onnxruntime to be auto-completed

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, settings.graph_level)
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if settings.parallel else ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = settings.intra_op_threads
    options.inter_op_num_threads = settings.inter_op_threads
    if settings.memory_arena is not None:
        options.enable_cpu_mem_arena = settings.memory_arena
    if settings.memory_pattern is not None:
        options.enable_mem_pattern = settings.memory_pattern
    if _DEVICE_ALLOCATOR in config.parameters:
        options.add_session_config_entry(_DEVICE_ALLOCATOR, config.parameters[_DEVICE_ALLOCATOR])
    # Its warnings are of how it lays out a graph, which whoever serves the model cannot change.
    options.log_severity_level = 3
    if providers[0][0] == "CUDAExecutionProvider":
        ort.set_default_logger_severity(3)
        ort.preload_dlls()  # CUDA's libraries that were installed as Python packages, which the loader does not find
    try:
        for library in config.op_libraries:
            options.register_custom_ops_library(library)
        session = ort.InferenceSession(os.fspath(file.path), sess_options=options, providers=providers)
    except Exception as exc:
        # onnxruntime's exceptions have no common type of their own.
        raise LoadRefusedError(client_sentence(str(exc), os.fspath(file.path), file.shown), INTERNAL) from exc
    first = providers[0][0]
    if first not in session.get_providers():
        # onnxruntime falls back to the CPU with a mere log line, at a tenth of the speed that was asked for.
        raise LoadRefusedError(f"unable to load model '{config.name}', onnxruntime could not start {first}", INTERNAL)
    return session


def run_options(config: ModelConfig) -> Any:
    """Make the `onnxruntime.RunOptions` of every call."""
    import onnxruntime as ort

    options = ort.RunOptions()
    # Failures are reported to the client; by default onnxruntime also writes each of them to standard error.
    options.log_severity_level = 4
    if _ARENA_SHRINKAGE in config.parameters:
        options.add_run_config_entry(_ARENA_SHRINKAGE, config.parameters[_ARENA_SHRINKAGE])
    return options


def _cuda_options(config: ModelConfig, device_id: int) -> dict[str, str]:
    options: dict[str, str] = {}
    for accelerator in config.gpu_accelerators:
        if accelerator.name == "tensorrt":
            raise LoadRefusedError(
                f"unable to load model '{config.name}', Execution Accelerator 'tensorrt' is not available on the "
                "embedded host, use NVIDIA's image (docker/Dockerfile.triton)"
            )
        if accelerator.name != "cuda":
            raise LoadRefusedError(f"unknown Execution Accelerator '{accelerator.name}' is requested")
        options.update(accelerator.parameters)
    for key, values in (("cudnn_conv_algo_search", _CUDNN_SEARCH), ("arena_extend_strategy", _ARENA_STRATEGY)):
        if key in config.parameters:
            value = config.integer(key)
            if value not in values:
                raise LoadRefusedError(f"unsupported {key} value '{value}' is requested")
            options[key] = values[value]
    for key in ("gpu_mem_limit", "do_copy_in_default_stream"):
        if key in config.parameters:
            options[key] = config.parameters[key]
    return {**options, "device_id": str(device_id)}
