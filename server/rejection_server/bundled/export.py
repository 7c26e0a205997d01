"""From a fine-tuned PyTorch classifier to ONNX: padded float32, and the packed int8 form that Triton serves."""

from pathlib import Path
from typing import Any

import onnx
import torch

from rejection_server.graph.packed import to_packed
from rejection_server.graph.walk import drop_traces

_OPSET = 18


class _LogitsOnly(torch.nn.Module):  # type: ignore[misc]  # torch is absent where types are checked
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def export_padded(model: Any, path: Path, max_length: int) -> None:
    """Write the model as ONNX: ``input_ids`` and ``attention_mask`` [rows, tokens] to ``logits`` [rows, labels]."""
    model.eval()
    model.set_attn_implementation("eager")  # plain operators, which onnxruntime fuses
    ids = torch.ones((2, 9), dtype=torch.int64)
    axes = {0: torch.export.Dim("rows", min=1, max=1024), 1: torch.export.Dim("tokens", min=2, max=max_length)}
    program = torch.onnx.export(
        _LogitsOnly(model).eval(),
        (ids, torch.ones_like(ids)),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        opset_version=_OPSET,
        dynamo=True,
        dynamic_shapes=(axes, axes),
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    exported = program.model_proto
    drop_traces(exported.graph)
    onnx.save(exported, path)


def to_served(padded: Path, path: Path, heads: int) -> None:
    """Write the int8 packed form of a padded float32 model of so many attention heads."""
    onnx.save(to_packed(onnx.load(padded), heads=heads, int8=True), path)
