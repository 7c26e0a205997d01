"""Complete an absent or partial model configuration from the ONNX model."""

from collections.abc import Mapping
from typing import Any

from rejection_server.onnx_backend.refusal import LoadRefusedError
from rejection_server.onnx_backend.tensor_types import TensorInfo

DEFAULT_MAX_BATCH_SIZE = 4
"""Triton's own default of `--backend-config=default-max-batch-size`."""


def is_complete(raw: Mapping[str, Any]) -> bool:
    """Tell whether a configuration names inputs and outputs; then nothing is to be completed."""
    return bool((raw.get("input") or raw.get("batch_input")) and raw.get("output"))


def complete(raw: dict[str, Any], inputs: Mapping[str, TensorInfo], outputs: Mapping[str, TensorInfo]) -> list[str]:
    """Complete `raw`, a model configuration in Triton's JSON form, in place.

    Args:
        raw: The configuration; inputs, outputs, `max_batch_size` and `dynamic_batching` are filled in where absent.
        inputs: The model's inputs by name.
        outputs: The model's outputs by name.

    Returns:
        Warnings for the server's log.

    Raises:
        LoadRefusedError: `max_batch_size` is set but the model has a fixed first dimension.
    """
    warnings = _complete_max_batch_size(raw, {**inputs, **outputs})
    if not raw.get("input") and not raw.get("batch_input"):
        raw["input"] = _entries(inputs, raw["max_batch_size"])
    if not raw.get("output"):
        raw["output"] = _entries(outputs, raw["max_batch_size"])
    return warnings


def _complete_max_batch_size(raw: dict[str, Any], tensors: Mapping[str, TensorInfo]) -> list[str]:
    warnings: list[str] = []
    configured = raw.get("max_batch_size", 0)
    if not all(info.shape[:1] == (-1,) for info in tensors.values()):
        if configured:
            raise LoadRefusedError(
                f"autofill failed for model '{raw['name']}': model does not support batching while non-zero "
                "max_batch_size is specified"
            )
        raw["max_batch_size"] = 0
        return warnings
    if not configured:
        raw["max_batch_size"] = DEFAULT_MAX_BATCH_SIZE
        warnings.append(
            f"autofilled max_batch_size to {DEFAULT_MAX_BATCH_SIZE} for model '{raw['name']}' since batching is "
            "supported but no max_batch_size is specified in model configuration. Must specify max_batch_size to "
            "utilize autofill with a larger max batch size"
        )
    if raw["max_batch_size"] > 1:
        raw.setdefault("dynamic_batching", {})
    return warnings


def _entries(tensors: Mapping[str, TensorInfo], max_batch_size: int) -> list[dict[str, Any]]:
    entries = []
    for info in tensors.values():
        entry: dict[str, Any] = {"name": info.name, "data_type": info.data_type}
        entry["dims"] = list(info.shape[1:] if max_batch_size else info.shape)
        if not entry["dims"]:
            # A configuration must give at least one dimension.
            entry["dims"] = [1]
            if max_batch_size:
                entry["reshape"] = {"shape": []}
        entries.append(entry)
    return entries
