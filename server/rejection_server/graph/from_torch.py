"""A PyTorch classifier as a padded ONNX program. Imports PyTorch only when called: serving does without it."""

from typing import Any

OPSET = 18


def exported(model: Any, max_length: int, segment: int = 0) -> Any:
    """The `torch.onnx.ONNXProgram` of a `transformers` sequence classifier in evaluation mode with eager attention.

    Its inputs are ``input_ids`` and ``attention_mask`` [rows, up to max_length tokens], its output is ``logits``
    [rows, labels]; all tokens are of ``segment`` (``token_type_ids``). A model without a padding token takes one row
    only: the scores of a decoder are those of the last token, and without one it cannot tell where a row in a batch
    ends. Raises whatever `torch.onnx.export` does, which are dozens of kinds.
    """
    import torch

    class LogitsOnly(torch.nn.Module):  # type: ignore[misc]  # torch is absent where types are checked
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            segments = {"token_type_ids": torch.full_like(input_ids, segment)} if segment else {}
            # XLNet subtracts the mask from 1.0, and the exporter has no such operator for whole numbers.
            mask = attention_mask.float() if model.config.model_type == "xlnet" else attention_mask
            return self.model(input_ids=input_ids, attention_mask=mask, **segments).logits

    model.config.use_cache = False  # what a decoder keeps for the next token is of no use to a score
    has_padding = getattr(model.config, "pad_token_id", None) is not None
    ids = torch.ones((2 if has_padding else 1, 9), dtype=torch.int64)
    axes = {1: torch.export.Dim("tokens", min=2, max=max(max_length, 16))}
    if has_padding:
        axes[0] = torch.export.Dim("rows", min=1, max=1024)
    program = torch.onnx.export(
        LogitsOnly().eval(),
        (ids, torch.ones_like(ids)),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=(axes, axes),
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    return program
