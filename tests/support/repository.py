"""The model repository as checked out, and its tokenizer without Triton."""

from pathlib import Path
from typing import Any

from rejection_server.prepare import tokenizer

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
RESPONSES = ROOT / "tests" / "data" / "responses.jsonl"
EVERYDAY = ROOT / "tests" / "data" / "everyday.jsonl"


def tokenizing() -> Any:
    """The tokenizer model's logic, without its Triton adapter."""
    return tokenizer.tokenizing()


def bundled_tokenizer() -> Any:
    return tokenizing().TextTokenizer(REPOSITORY / "tokenizer" / "1" / "tokenizer.json", 512)
