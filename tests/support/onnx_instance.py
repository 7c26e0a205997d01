"""Instances of the stand-in `onnxruntime` backend, loaded from tiny models without Triton."""

import onnx

from rejection_server.onnx_backend.config import parse_config
from rejection_server.onnx_backend.instance import load_instance


def config(max_batch_size=8, parameters=None, **more):
    strings = {key: {"string_value": value} for key, value in (parameters or {}).items()}
    return parse_config({"name": "X", "max_batch_size": max_batch_size, "parameters": strings, **more})


def entry(name, data_type="TYPE_FP32", dims=(-1,), **more):
    return {"name": name, "data_type": data_type, "dims": list(dims), **more}


def load(version_folder, model, **more):
    onnx.save(model, version_folder / "model.onnx")
    return load_instance(config(**more), version_folder, "CPU", 0)


RAGGED = {
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
GATHER = {"input": [entry("index", "TYPE_INT64", [1])], "output": [entry("y", dims=[1])]}
"""Of `onnx_backend_models.gather`."""
