"""The model repository as checked out, and its tokenizer without Triton."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
RESPONSES = ROOT / "tests" / "data" / "responses.jsonl"
EVERYDAY = ROOT / "tests" / "data" / "everyday.jsonl"


def tokenizing():
    """The tokenizer model's logic, the module beside its Triton adapter."""
    path = REPOSITORY / "tokenizer" / "1" / "tokenizing.py"
    spec = importlib.util.spec_from_file_location("tokenizing", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bundled_tokenizer():
    return tokenizing().TextTokenizer(REPOSITORY / "tokenizer" / "1" / "tokenizer.json", 512)
