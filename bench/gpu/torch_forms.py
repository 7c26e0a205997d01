"""The same checkpoint in PyTorch: padded as people run it, and packed, with variable-length attention, compiled."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.gpu.rows import Ids, padded
from bench.random_model import silent_transformers


class TorchModel:
    """A sequence classifier of the RoBERTa family on a device."""

    def __init__(self, checkpoint: Path, device: str, *, half: bool) -> None:
        import torch

        self.torch, self.device = torch, device
        if device == "cpu":
            torch.set_num_threads(1)  # several wait for each other on a busy machine
        loaded = silent_transformers().AutoModelForSequenceClassification.from_pretrained(
            checkpoint, attn_implementation="sdpa"
        )
        self.model = loaded.to(device=device, dtype=torch.float16 if half else torch.float32).eval()
        self.pad_id = int(self.model.config.pad_token_id)

    def logits(self, rows: Sequence[Ids]) -> NDArray[np.float32]:
        """Logits [rows, labels] of the rows padded to the longest."""
        result: NDArray[np.float32] = self.padded(rows)().float().cpu().numpy()
        return result

    def padded(self, rows: Sequence[Ids]) -> Callable[[], Any]:
        """A run on rows padded to the longest; their ids lie on the device. It returns when it is done."""
        ids, mask = (self.torch.from_numpy(array).to(self.device) for array in padded(rows, self.pad_id))

        def run() -> Any:
            with self.torch.inference_mode():
                logits = self.model(input_ids=ids, attention_mask=mask).logits
            self._wait()
            return logits

        return run

    def packed(self, rows: Sequence[Ids], forward: Callable[..., Any]) -> Callable[[], Any]:
        """A run of `packed_forward`, compiled or not, on the rows one after the other."""
        torch = self.torch
        flat = torch.from_numpy(np.concatenate(rows)).to(self.device)
        lengths = np.array([len(row) for row in rows])
        bounds = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)).to(self.device)
        # RoBERTa numbers positions from the padding id on.
        places = np.concatenate([np.arange(length) + self.pad_id + 1 for length in lengths])
        positions = torch.from_numpy(places).to(self.device)

        def run() -> Any:
            with torch.inference_mode():
                logits = forward(self.model, flat, positions, bounds, int(lengths.max()))
            self._wait()
            return logits

        return run

    def _wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()


def packed_forward(model: Any, ids: Any, positions: Any, bounds: Any, longest: int) -> Any:
    """The classifier on tokens of all rows [tokens], without padding; logits [rows, labels]."""
    import torch
    from torch.nn.attention.varlen import varlen_attn

    encoder = model.roberta
    table = encoder.embeddings
    types = table.token_type_embeddings.weight[0]
    state = table.LayerNorm(table.word_embeddings(ids) + table.position_embeddings(positions) + types)
    heads = model.config.num_attention_heads
    for layer in encoder.encoder.layer:
        own = layer.attention.self
        query, key, value = (part(state).unflatten(-1, (heads, -1)) for part in (own.query, own.key, own.value))
        mixed = varlen_attn(query, key, value, bounds, bounds, longest, longest).flatten(-2)
        output = layer.attention.output
        state = output.LayerNorm(output.dense(mixed) + state)
        inner = torch.nn.functional.gelu(layer.intermediate.dense(state))
        state = layer.output.LayerNorm(layer.output.dense(inner) + state)
    firsts = state[bounds[:-1].long()]
    head = model.classifier
    return head.out_proj(torch.tanh(head.dense(firsts)))
