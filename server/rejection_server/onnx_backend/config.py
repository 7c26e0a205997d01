"""The parts of a Triton model configuration that this backend acts on, read once at load."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rejection_server.onnx_backend.refusal import UNSUPPORTED, LoadRefusedError

DEFAULT_MODEL_FILENAME = "model.onnx"

BATCH_INPUT_KINDS = frozenset(
    {
        "BATCH_ELEMENT_COUNT",
        "BATCH_ACCUMULATED_ELEMENT_COUNT",
        "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
        "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
        "BATCH_ITEM_SHAPE",
        "BATCH_ITEM_SHAPE_FLATTEN",
    }
)
BATCH_INPUT_DATA_TYPES = {"TYPE_INT32": "int32", "TYPE_FP32": "float32"}


@dataclass(frozen=True)
class TensorConfig:
    """An `input` or `output` entry."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    """What the model sees per item: `reshape` where given, else `dims`."""
    ragged: bool = False
    optional: bool = False


@dataclass(frozen=True)
class BatchInput:
    """A `batch_input` entry: a tensor about the batch that the backend itself makes."""

    kind: str
    dtype: str
    """numpy name of the element type."""
    source_input: str
    target_names: tuple[str, ...]


@dataclass(frozen=True)
class Accelerator:
    """An entry of `optimization.execution_accelerators`."""

    name: str
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class ModelConfig:
    """A model configuration, complete or not."""

    name: str
    max_batch_size: int
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    batch_inputs: tuple[BatchInput, ...]
    scattered_outputs: Mapping[str, str]
    """`batch_output` of kind BATCH_SCATTER_WITH_INPUT_SHAPE: output name to source input name."""
    default_model_filename: str
    parameters: Mapping[str, str]
    graph_level: int
    cpu_accelerators: tuple[Accelerator, ...]
    gpu_accelerators: tuple[Accelerator, ...]
    op_libraries: tuple[str, ...]
    instance_count: int
    """Instances of all of its `instance_group` together."""

    def integer(self, key: str, default: int = 0) -> int:
        """Return the integer parameter `key`; text after the leading digits is ignored, as C++'s `stoi` does.

        Raises:
            LoadRefusedError: The value does not begin with an integer.
        """
        value = self.parameters.get(key)
        if value is None:
            return default
        number = re.match(r"\s*([+-]?\d{1,10})(?!\d)", value)
        if number is None or not -(2**31) <= int(number[1]) < 2**31:
            raise LoadRefusedError(f"failed to convert '{value}' to integral number")
        return int(number[1])

    def boolean(self, key: str) -> bool | None:
        """Return the boolean parameter `key`, None where it is absent.

        Raises:
            LoadRefusedError: The value is none of true, on, 1, false, off, 0.
        """
        value = self.parameters.get(key)
        if value is None:
            return None
        if value.lower() in {"true", "on", "1"}:
            return True
        if value.lower() in {"false", "off", "0"}:
            return False
        raise LoadRefusedError(f"failed to convert '{value}' to boolean")


def parse_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Read a model configuration in the JSON form in which Triton passes it on.

    Raises:
        LoadRefusedError: It asks for something that this backend, or Triton's C++ backend, does not do.
    """
    name = raw["name"]
    if "sequence_batching" in raw:
        raise LoadRefusedError(
            f"unable to load model '{name}', sequence_batching is not supported on the embedded host, "
            "use NVIDIA's image (docker/Dockerfile.triton)",
            UNSUPPORTED,
        )
    if raw.get("model_transaction_policy", {}).get("decoupled"):
        raise LoadRefusedError(
            f"unable to load model '{name}', the decoupled transaction policy is not supported on the embedded host, "
            "use NVIDIA's image (docker/Dockerfile.triton)",
            UNSUPPORTED,
        )
    optimization = raw.get("optimization", {})
    accelerators = optimization.get("execution_accelerators", {})
    return ModelConfig(
        name=name,
        max_batch_size=int(raw.get("max_batch_size", 0)),
        inputs=_tensors(raw.get("input", ())),
        outputs=_tensors(raw.get("output", ())),
        batch_inputs=tuple(_batch_input(entry) for entry in raw.get("batch_input", ())),
        scattered_outputs={
            target: entry["source_input"][0] for entry in raw.get("batch_output", ()) for target in entry["target_name"]
        },
        default_model_filename=raw.get("default_model_filename") or DEFAULT_MODEL_FILENAME,
        parameters={key: entry.get("string_value", "") for key, entry in raw.get("parameters", {}).items()},
        graph_level=int(optimization.get("graph", {}).get("level", 0)),
        cpu_accelerators=_accelerators(accelerators.get("cpu_execution_accelerator", ())),
        gpu_accelerators=_accelerators(accelerators.get("gpu_execution_accelerator", ())),
        op_libraries=tuple(raw.get("model_operations", {}).get("op_library_filename", ())),
        instance_count=sum(int(group.get("count", 1)) for group in raw.get("instance_group", ())),
    )


def _tensors(entries: Sequence[Mapping[str, Any]]) -> tuple[TensorConfig, ...]:
    return tuple(
        TensorConfig(
            name=entry["name"],
            data_type=entry["data_type"],
            dims=_dims(entry),
            ragged=bool(entry.get("allow_ragged_batch", False)),
            optional=bool(entry.get("optional", False)),
        )
        for entry in entries
    )


def _dims(entry: Mapping[str, Any]) -> tuple[int, ...]:
    dims = entry["reshape"].get("shape", ()) if "reshape" in entry else entry.get("dims", ())
    return tuple(int(size) for size in dims)


def _batch_input(entry: Mapping[str, Any]) -> BatchInput:
    kind = entry["kind"]
    if kind not in BATCH_INPUT_KINDS:
        raise LoadRefusedError(f"unexpected batch input kind '{kind}'")
    data_type = entry["data_type"]
    if data_type not in BATCH_INPUT_DATA_TYPES:
        raise LoadRefusedError(f"unexpected batch input data type '{data_type}'")
    return BatchInput(kind, BATCH_INPUT_DATA_TYPES[data_type], entry["source_input"][0], tuple(entry["target_name"]))


def _accelerators(entries: Sequence[Mapping[str, Any]]) -> tuple[Accelerator, ...]:
    return tuple(Accelerator(entry["name"], entry.get("parameters", {})) for entry in entries)
