"""The model repository as checked out, and its tokenizer without Triton."""

import importlib.util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
RESPONSES = ROOT / "tests" / "data" / "responses.jsonl"
EVERYDAY = ROOT / "tests" / "data" / "everyday.jsonl"


def tokenizing(name: str = "tokenizing") -> Any:
    """The tokenizer model's logic, or another module beside its Triton adapter."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tokenizer" / "1" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bundled_tokenizer() -> Any:
    return tokenizing().TextTokenizer(REPOSITORY / "tokenizer" / "1" / "tokenizer.json", 512)
