"""Instances of the stand-in `onnxruntime` backend, loaded from tiny models without Triton."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from rejection_server.onnx_backend.batching import Item
from rejection_server.onnx_backend.config import ModelConfig, parse_config
from rejection_server.onnx_backend.instance import Instance, load_instance


def config(max_batch_size: int = 8, parameters: Mapping[str, str] | None = None, **more: Any) -> ModelConfig:
    strings = {key: {"string_value": value} for key, value in (parameters or {}).items()}
    return parse_config({"name": "X", "max_batch_size": max_batch_size, "parameters": strings, **more})


def entry(name: str, data_type: str = "TYPE_FP32", dims: Sequence[int | str] = (-1,), **more: Any) -> dict[str, Any]:
    return {"name": name, "data_type": data_type, "dims": list(dims), **more}


def load(version_folder: Path, model: ModelProto, **more: Any) -> Instance:
    onnx.save(model, version_folder / "model.onnx")
    return load_instance(config(**more), version_folder, "CPU", 0)


def infer(instance: Instance, items: Sequence[Item]) -> list[Any]:
    """For each item its outputs or its failure, of a type that lets a test take it for either."""
    return list(instance.infer(items))


RAGGED: dict[str, Any] = {
    "input": [entry("ids", "TYPE_INT64", allow_ragged_batch=True)],
    "output": [entry("total", dims=[1]), entry("count", "TYPE_INT64", [1])],
    "batch_input": [
        {
            "kind": "BATCH_ITEM_SHAPE",
            "data_type": "TYPE_INT32",
            "source_input": ["ids"],
            "target_name": ["lengths"],
        }
    ],
}
"""Of `onnx_backend_models.ragged_sum`."""
GATHER: dict[str, Any] = {"input": [entry("index", "TYPE_INT64", [1])], "output": [entry("y", dims=[1])]}
"""Of `onnx_backend_models.gather`."""
