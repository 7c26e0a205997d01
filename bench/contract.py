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
    graphs: Mapping[str, Path]
    """ONNX files for people who write their server by hand, by precision. Of a checkpoint: inputs `input_ids` and
    `attention_mask`, int64 [rows, tokens]; int8 is onnxruntime's `quantize_dynamic`. Of the bundled model: the file
    that is served, inputs `input_ids` [tokens] and `sequence_lengths` [rows, 1]. Output `logits`."""
    repositories: Mapping[str, Path]
    """Served Triton model repository by precision."""
    max_length: int
    """Tokens of the longest text, specials included; texts are truncated to it."""
    labels: tuple[str, ...]
    checkpoint: Path | None = None
    """Hugging Face checkpoint folder (config, safetensors, tokenizer), float32; None if there is none."""

    @property
    def reference(self) -> Path:
        """The graph whose answers to each text alone all others are compared with."""
        return self.graphs.get("float32", self.graphs["int8"])

    def served(self, precision: str) -> Path:
        """The ragged graph in the served repository."""
        return self.repositories[precision] / "classifier" / "1" / "model.onnx"


class Caller(Protocol):
    """Sends texts to a running system; safe for concurrent use in one event loop."""

    async def __call__(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        """Probabilities, float32 [texts, labels], columns in the order of the model's labels."""
        ...


OpenCaller = Callable[[], AbstractAsyncContextManager[Caller]]


@dataclass(frozen=True, slots=True)
class Target:
    """A running system: whom to call, and over which processes, descendants included, CPU and memory are counted."""

    name: str
    pids: tuple[int, ...]
    caller: OpenCaller
