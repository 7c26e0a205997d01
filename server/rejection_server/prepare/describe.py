"""What a model's configuration and tokenizer say: labels, lengths, and the tokenizer as one file."""

import functools
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rejection_server import MODEL_REPOSITORY
from rejection_server.graph.rows import Activation
from rejection_server.prepare.errors import CorruptedError, PrepareError, UnsupportedError, VocabularyError
from rejection_server.prepare.labels import activation_of, labels_of
from rejection_server.prepare.source import CONFIG, read_json
from rejection_server.wording import one_line

SERVED_AT_MOST = 2048
"""Tokens; models that can take more need `--max-length`, because attention's memory grows with the square."""

# These number positions from the padding id on, so that many fewer tokens fit than there are positions.
_OFFSET_POSITIONS = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "roberta-prelayernorm",
        "camembert",
        "mpnet",
        "data2vec-text",
        "longformer",
    }
)
_ABSURD_LENGTH = 10**6  # what tokenizers without a length of their own say
_CLASSIFIER = "ForSequenceClassification"


@dataclass(frozen=True)
class Description:
    """What is served, apart from the graph."""

    architecture: str
    """Class of the model, like RobertaForSequenceClassification."""
    labels: tuple[str, ...]
    activation: Activation
    model_max_length: int
    """Longest text in tokens, special ones included."""
    longest_possible: int
    """What the model itself could take."""
    pad_id: int
    largest_id: int
    """Largest token id that the tokenizer can give."""
    heads: int
    hidden_size: int
    rows: tuple[tuple[int, ...], ...]
    """Token ids of the texts, cut to `model_max_length`."""
    token_counts: tuple[int, ...]
    """Tokens of the texts before that."""


def describe(folder: Path, texts: Sequence[str], max_length: int | None, tokenizer_path: Path) -> Description:
    """Read configuration and tokenizer in `folder`; writes the tokenizer to `tokenizer_path`.

    Raises UnsupportedError or CorruptedError.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    architecture = _architecture(read_json(folder / CONFIG))
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError) as exc:
        raise UnsupportedError(
            f"the model's configuration is not one that transformers knows: {one_line(exc)}"
        ) from exc
    labels = labels_of(config.id2label)
    tokenizer = _load_tokenizer(folder)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(tokenizer_path))
    pad_id = config.pad_token_id if config.pad_token_id is not None else tokenizer.pad_token_id or 0
    possible = longest_text(config.model_type, vars(config), pad_id, tokenizer.model_max_length)
    served = min(possible, max_length or SERVED_AT_MOST)
    check_served_tokenizer(tokenizer_path, served)
    full = [tokenizer(text)["input_ids"] for text in texts]
    cut = [tokenizer(text, truncation=True, max_length=served)["input_ids"] for text in texts]
    return Description(
        architecture=architecture,
        labels=labels,
        activation=activation_of(len(labels), config.problem_type),
        model_max_length=served,
        longest_possible=possible,
        pad_id=pad_id,
        largest_id=max(backend.get_vocab(with_added_tokens=True).values()),
        heads=int(getattr(config, "num_attention_heads", 0) or 0),
        hidden_size=int(getattr(config, "hidden_size", 0) or 0),
        rows=tuple(tuple(ids) for ids in cut),
        token_counts=tuple(len(ids) for ids in full),
    )


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or []
    if not names:
        raise UnsupportedError(f"{CONFIG} does not say what the model is (architectures): a text classifier is needed")
    if not names[0].endswith(_CLASSIFIER):
        raise UnsupportedError(
            f"the model is not a text classifier: its architecture is {names[0]}, not *{_CLASSIFIER}"
        )
    return str(names[0])


def longest_text(model_type: str, config: Mapping[str, Any], pad_id: int, tokenizer_length: int | None) -> int:
    """Tokens that fit into the model's positions, special ones included; raises UnsupportedError if nothing says so."""
    limits = []
    positions = config.get("max_position_embeddings")
    if positions:
        limits.append(int(positions) - (pad_id + 1 if model_type in _OFFSET_POSITIONS else 0))
    if tokenizer_length is not None and tokenizer_length < _ABSURD_LENGTH:
        limits.append(int(tokenizer_length))
    if not limits or min(limits) < 1:
        raise UnsupportedError("neither model nor tokenizer says how long a text may be (max_position_embeddings)")
    return min(limits)


def check_vocabulary(largest_id: int, embedding_rows: int) -> None:
    """Raise VocabularyError if the tokenizer gives ids that the model has no embedding for."""
    if largest_id >= embedding_rows:
        raise VocabularyError(
            f"tokenizer and model do not belong together: the tokenizer gives ids up to {largest_id}, the model has "
            f"embeddings for 0 to {embedding_rows - 1}"
        )


def check_served_tokenizer(path: Path, model_max_length: int) -> None:
    """Read the tokenizer as the server will; raises UnsupportedError if that is refused."""
    try:
        tokenizing().TextTokenizer(path, model_max_length)
    except PrepareError:
        raise
    except Exception as exc:  # tokenizers raises nothing narrower
        raise UnsupportedError(f"the model's tokenizer cannot be served: {one_line(exc)}") from exc


@functools.cache
def tokenizing() -> ModuleType:
    """The tokenizer model's own module, which finds those beside it as it does in Triton: by the search path."""
    sys.path.insert(0, str(MODEL_REPOSITORY / "tokenizer" / "1"))
    try:
        return importlib.import_module("tokenizing")
    finally:
        sys.path.pop(0)


def _load_tokenizer(folder: Path) -> Any:
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
    return tokenizer
