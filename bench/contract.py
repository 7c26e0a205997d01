"""What the harness and the systems it measures agree on: a model's files, and a running system one can call.

A system is started with a `ModelFiles`, a precision and a number of cores, and yields a `Target`. The load generator
opens the target's caller in a process of its own, so a `Target` must survive pickling: make `caller` a module-level
function, a `functools.partial` of one, or a frozen dataclass with `__call__`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One classifier in every form that a system may need; all forms carry the same weights."""

    name: str
    tokenizer: Path
    """`tokenizer.json` of the `tokenizers` library."""
    checkpoint: Path | None
    """Hugging Face checkpoint folder (config, safetensors, tokenizer), float32; None if it cannot be had."""
    float32: Path
    """ONNX graph with inputs `input_ids` and `attention_mask`, int64 [rows, tokens], and output `logits`."""
    int8: Path
    """The same graph through onnxruntime's `quantize_dynamic`: what people run who write their server by hand."""
    repositories: Mapping[str, Path]
    """Served Triton model repository by precision ("float32", "int8")."""
    max_length: int
    """Tokens of the longest text, specials included; texts are truncated to it."""
    labels: tuple[str, ...]


class Caller(Protocol):
    """Sends texts to a running system; safe for concurrent use in one event loop."""

    async def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Probabilities, float32 [texts, labels], columns in the order of the model's labels."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """A running system: whom to call, and over which processes, descendants included, CPU and memory are counted."""

    name: str
    pids: tuple[int, ...]
    caller: Callable[[], AbstractAsyncContextManager[Caller]]
