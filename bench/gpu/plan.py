"""What is measured on a GPU, in order of worth, and how long each part may take. Standard library only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.settings import BUILD

SECTIONS = {
    "preflight": 60.0,
    "graphs": 150.0,
    "gate": 60.0,
    "onnxruntime": 130.0,
    "served": 300.0,
    "torch": 130.0,
    "tei": 60.0,
}
"""The parts in the order in which they run, and the seconds that each may take."""
NEEDED = ("preflight", "graphs")
"""Without these nothing else can run."""
Door = Literal["guard", "triton"]
"""Whom the load generator calls: the server as it is, or Triton behind its guard."""
WORKLOADS = ("mixed", "long", "short")
"""Rows as chat models answer (181 tokens on average), of 512 tokens, of 20."""


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """Everything that is chosen about a run."""

    work: Path = BUILD / "gpu"
    """Checkpoint and graphs; what is there already is taken."""
    dry: bool = False
    """On the processor, with a tiny model: whether all of it works, not how fast."""
    sections: tuple[str, ...] = tuple(SECTIONS)
    graphs: tuple[str, ...] = ()
    """Names of the graphs to measure, the first in full; none is all of them."""
    scale: float = 1.0
    """How long sections and windows are, beside what stands here."""

    tried: tuple[tuple[int, int], ...] = ()
    """Tokenizer processes and classifier instances to try; none is a choice of them."""
    tei: str = ""
    """URL of a Text Embeddings Inference to measure beside it; none is none."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of a batch, roughly: so many that its last row is whole."""
        return (512, 2048) if self.dry else (512, 2048, 8192, 16384, 32768)

    @property
    def window_s(self) -> float:
        """How long an execution is repeated for a figure."""
        return (0.05 if self.dry else 0.6) * self.scale

    @property
    def device(self) -> str:
        """As PyTorch and onnxruntime's tensors name it."""
        return "cpu" if self.dry else "cuda"

    @property
    def layouts(self) -> tuple[tuple[int, int], ...]:
        """Tokenizer processes and classifier instances, best guess first."""
        if self.tried:
            return self.tried
        return ((1, 1),) if self.dry else ((6, 2), (6, 1), (6, 4), (9, 2), (1, 1), (4, 1))

    @property
    def loads(self) -> tuple[tuple[int, int, Door], ...]:
        """Texts in a request, callers, and whom they call."""
        if self.dry:
            return ((1, 2, "triton"), (8, 1, "guard"))
        full: tuple[tuple[int, int, Door], ...] = ((1, 512, "triton"), (1, 512, "guard"), (32, 16, "triton"))
        return (*full, (32, 16, "guard"), (1, 128, "triton"), (32, 64, "triton"), (1, 32, "triton"), (1, 8, "guard"),
                (1, 1, "triton"), (1, 1, "guard"))  # fmt: skip

    @property
    def tei_loads(self) -> tuple[tuple[int, int], ...]:
        """Texts in a request and callers, of those that Triton is measured with."""
        return ((1, 2), (8, 1)) if self.dry else ((1, 512), (32, 16), (1, 128), (1, 1))

    @property
    def load_s(self) -> float:
        """How long a load is measured."""
        return (0.5 if self.dry else 3.0) * self.scale
