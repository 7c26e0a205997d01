"""`export` that remembers: most broken folders hold weights that were exported before, and PyTorch takes seconds."""

import hashlib
import os
import shutil
from pathlib import Path

from rejection_server.prepare import export as original
from rejection_server.prepare.describe import Description

PLACE = "REJECTION_FUZZ_EXPORTS"
"""Names the folder of what is remembered, in the environment, which a step's process inherits."""


def export(folder: Path, weights: str, described: Description, path: Path) -> None:
    """As `rejection_server.prepare.export.export`; taken for the same are equal configurations, weights and lengths."""
    content = hashlib.sha256(f"{weights} {described.model_max_length} {described.segment}".encode())
    for file in sorted(folder.iterdir()):
        if file.name == "config.json" or file.name.startswith(("model", "pytorch_model")):
            content.update(file.name.encode() + file.read_bytes())
    kept = Path(os.environ[PLACE], content.hexdigest())
    if not kept.is_dir():
        original.export(folder, weights, described, path)
        unfinished = kept.with_name(f"{kept.name}.{os.getpid()}")
        unfinished.mkdir()
        for written in path.parent.glob(f"{path.name}*"):
            shutil.copy(written, unfinished)
        unfinished.rename(kept)
    for file in kept.iterdir():
        shutil.copy(file, path.parent)
