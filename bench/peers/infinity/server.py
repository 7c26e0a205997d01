"""infinity's own command, with its Optimum classifier mended in two places.

That classifier does not truncate, so a text that is too long fails, and it names a local ONNX file in a way that the
Optimum it asks for no longer takes.
"""

from pathlib import Path
from typing import Any

from infinity_emb.cli import cli
from infinity_emb.transformer.classifier import optimum


def encode_core(self: Any, sentences: list[str]) -> Any:
    """As infinity's, truncated to the tokenizer's `model_max_length` as its PyTorch classifier does."""
    return self._pipe(sentences, batch_size=len(sentences), truncation=True, padding=True)


optimum.OptimumClassifier.encode_core = encode_core
optimum.get_onnx_files = lambda **_: Path("model.onnx")

if __name__ == "__main__":
    cli()
