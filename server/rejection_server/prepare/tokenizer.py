"""The model's tokenizer: as transformers loads it, and as the one file that the server reads.

What transformers keeps beside `tokenizer.json` and applies by itself is written into that file, or the model refused:
the side that is cut, special tokens taken as plain text, the segment of a text.
"""

import functools
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rejection_server import MODEL_REPOSITORY
from rejection_server.prepare.errors import CorruptedError, PrepareError, UnsupportedError
from rejection_server.wording import one_line

SEGMENTS = "token_type_ids"
SAMPLED_LENGTHS = (16, 128)
"""Tokens of the texts that graphs are timed and warmed up on: a short one and a usual one."""
_TEXT = "The bridge was closed for the whole summer, so everybody took the ferry. "


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder` as transformers reads it; raises UnsupportedError or CorruptedError."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, ImportError, KeyError, OSError, AttributeError, TypeError) as exc:
        raise UnsupportedError(f"the model's tokenizer cannot be read: {one_line(exc)}") from exc
    except Exception as exc:  # what `tokenizers` raises for a file it cannot parse
        raise CorruptedError(f"the model's tokenizer is damaged: {one_line(exc)}") from exc
    if not tokenizer.is_fast:
        raise UnsupportedError(
            f"the model's tokenizer ({type(tokenizer).__name__}) exists in Python only and has no tokenizer.json, "
            "which the server reads: it cannot be served"
        )
    try:
        tokenizer(_TEXT)
    except Exception as exc:  # whatever it was written for, such as words with their places on a page
        raise UnsupportedError(
            f"the model's tokenizer ({type(tokenizer).__name__}) does not take a text: {one_line(exc, 200)}"
        ) from exc
    return tokenizer


def write_served_tokenizer(folder: Path, path: Path, model_max_length: int) -> tuple[tuple[int, ...], ...]:
    """Write the tokenizer in `folder` to `path` with the settings that transformers keeps beside it.

    `truncation` says there which side is cut; how long a text may be, the server is told elsewhere. Returns token
    ids of texts of `SAMPLED_LENGTHS` tokens and of `model_max_length`, or of as many as fit, shortest first. Raises
    UnsupportedError if the server refuses the file.
    """
    tokenizer = load_tokenizer(folder)
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    if tokenizer.truncation_side == "left":
        backend.enable_truncation(model_max_length, direction="left")
    content = json.loads(backend.to_str())
    backend.no_truncation()
    if tokenizer.split_special_tokens:
        # They are plain text then. What is put around a text refers to them by id.
        content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    try:
        return sample_rows(path, model_max_length)
    except PrepareError:
        raise
    except Exception as exc:  # tokenizers raises nothing narrower
        raise UnsupportedError(f"the model's tokenizer cannot be served: {one_line(exc)}") from exc


def segment_of(tokenizer: Any) -> int:
    """The segment (`token_type_ids`) of all tokens of a text, 0 where the tokenizer names none.

    Raises UnsupportedError if they are not all of one segment.
    """
    if SEGMENTS not in tokenizer.model_input_names:
        return 0
    segments = sorted({int(segment) for segment in tokenizer(_TEXT)[SEGMENTS]})
    if len(segments) > 1:
        raise UnsupportedError(
            f"the tokenizer puts the tokens of one text into the segments {', '.join(map(str, segments))} "
            f"({SEGMENTS}, by the template in tokenizer.json), but the served graph gives all of them the same: it "
            f"cannot be served unless the template has one segment, or model_input_names no {SEGMENTS}"
        )
    return segments[0] if segments else 0


def sample_rows(path: Path, model_max_length: int) -> tuple[tuple[int, ...], ...]:
    """Token ids, as the server makes them, of texts of `SAMPLED_LENGTHS` tokens and of `model_max_length`."""
    tokenizer = tokenizing().TextTokenizer(path, model_max_length)
    (ids,) = tokenizer.token_ids([_TEXT * model_max_length])
    limits = sorted({min(length, model_max_length) for length in (*SAMPLED_LENGTHS, model_max_length)})
    return tuple(tuple(tokenizer.truncate(ids, limit)) for limit in limits)


def tokens_as_served(
    path: Path, texts: Sequence[str], model_max_length: int
) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Token ids of the texts, and their numbers of tokens, as the server makes them of the tokenizer at `path`."""
    tokenizer = tokenizing().TextTokenizer(path, model_max_length)
    rows, counts = tokenizer.read(texts, [model_max_length] * len(texts))
    return tuple(map(tuple, rows)), tuple(counts)


def counted_exactly(model_max_length: int) -> int:
    """Up to so many tokens the server counts exactly; of a longer text it says that there are so many at least."""
    return max(int(tokenizing().COUNTED_TOKENS), 2 * model_max_length)


def rows_of_limits(path: Path, model_max_length: int) -> list[tuple[int, ...]]:
    """What the server leaves of a text at each `max_length` up to where all special tokens and one other fit."""
    tokenizer = tokenizing().TextTokenizer(path, model_max_length)
    (whole,) = tokenizer.token_ids([_TEXT])
    (empty,) = tokenizer.token_ids([""])
    return [tuple(tokenizer.truncate(whole, limit)) for limit in range(1, len(empty) + 2)]


@functools.cache
def tokenizing() -> ModuleType:
    """The tokenizer model's own module, which finds those beside it as it does in Triton: by the search path."""
    sys.path.insert(0, str(MODEL_REPOSITORY / "tokenizer" / "1"))
    try:
        return importlib.import_module("tokenizing")
    finally:
        sys.path.pop(0)
