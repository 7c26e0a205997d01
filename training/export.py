"""From a fine-tuned PyTorch classifier to ONNX: padded float32, and the packed int8 form that Triton serves."""

from pathlib import Path
from typing import Any

import onnx

from rejection_server.graph.from_torch import exported
from rejection_server.graph.packed import to_packed
from rejection_server.graph.walk import drop_traces


def export_padded(model: Any, path: Path, max_length: int) -> None:
    """Write the model as ONNX: ``input_ids`` and ``attention_mask`` [rows, tokens] to ``logits`` [rows, labels]."""
    model.eval()
    model.set_attn_implementation("eager")  # plain operators, which onnxruntime fuses
    padded = exported(model, max_length).model_proto
    drop_traces(padded.graph)
    onnx.save(padded, path)


def to_served(padded: Path, path: Path, heads: int) -> None:
    """Write the int8 packed form of a padded float32 model of so many attention heads."""
    onnx.save(to_packed(onnx.load(padded), heads=heads, int8=True), path)
