"""Are a model's files whole, and of the kind that their names say? Looked at before anything is made of them.

The libraries that read these files later say of a damaged one whatever they stumbled over.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rejection_server.prepare.errors import CorruptedError, UnsupportedError
from rejection_server.prepare.isolated import isolated
from rejection_server.prepare.source import (
    ADAPTER_CONFIG,
    CONFIG,
    INDEXES,
    PICKLES,
    TOKENIZER_JSON,
    Source,
    read_object,
)
from rejection_server.wording import one_line

_LFS_POINTER = b"version https://git-lfs"
_PICKLE_HEADS = (b"PK\x03\x04", b"\x80")
"""How files begin that PyTorch writes: an archive, or since long ago a bare pickle."""
_SIZES = (
    *("vocab_size", "hidden_size", "embedding_size", "intermediate_size", "num_hidden_layers", "num_hidden_groups"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "dim", "hidden_dim", "n_layers", "n_heads"),
    *("n_layer", "n_head", "n_embd", "n_positions", "d_model", "d_ff", "d_kv", "num_layers", "num_heads"),
    *("encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim", "encoder_attention_heads"),
    "decoder_attention_heads",
)
"""Settings that are numbers of something, of which there is at least one, in the architectures that are common."""
_LARGEST_SIZE = 10**8
_LARGEST_ID = 10**7
_MOST_LAYERS = 1000
_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")
_FLOATS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_INTEGERS = ("I64", "I32")
"""Integers that are read as what they are; those of quantised weights are narrower."""


def check_whole(source: Source) -> None:
    """Raise CorruptedError or UnsupportedError, naming the file, if one of the model's files cannot be what it is."""
    for name in source.files:
        path = source.folder / name
        _check_content(path)
        if name in INDEXES:
            continue
        if path.suffix == ".json":
            _check_json(path)
        elif path.suffix == ".safetensors":
            _check_safetensors(path)
        elif path.suffix == ".model":
            isolated(check_sentencepiece, path)  # of what it cannot read, its library may make a crash
        elif name in PICKLES or path.suffix == ".bin":
            _check_pickle(path)
    if source.base is not None:
        check_whole(source.base)


def _check_content(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            head = stream.read(len(_LFS_POINTER))
    except OSError as exc:
        raise CorruptedError(f"{path} cannot be read: {exc.strerror}") from exc
    if not head:
        raise CorruptedError(f"{path} is empty: fetch it again")
    if head == _LFS_POINTER:
        raise CorruptedError(f"{path} only points to the file, which Git LFS keeps elsewhere: run git lfs pull there")


def _check_json(path: Path) -> None:
    held = read_object(path)
    if path.name == CONFIG:
        check_settings(held, path)
    elif path.name == TOKENIZER_JSON:
        _check_tokenizer(held, path)
    elif path.name == ADAPTER_CONFIG and not isinstance(held.get("peft_type"), str):
        raise CorruptedError(f"{path} is damaged: it does not say what kind of adapter this is (peft_type)")


def _check_tokenizer(held: Mapping[str, Any], path: Path) -> None:
    model = held.get("model")
    if not isinstance(model, dict):
        raise CorruptedError(f"{path} is damaged: it holds no tokenizer (model): fetch it again")
    vocabulary = model.get("vocab")
    for token, number in vocabulary.items() if isinstance(vocabulary, dict) else ():
        if not (isinstance(number, int) and 0 <= number <= _LARGEST_ID):  # a larger one takes memory up to there
            raise CorruptedError(f"{path} is damaged: it numbers the token {_shown(token)} {_shown(number)}")


def check_settings(settings: Mapping[str, Any], path: Path) -> None:
    """Raise CorruptedError or UnsupportedError if the model's configuration holds what no model can have."""
    for name, value in settings.items():
        if name in _SIZES and value is not None and not _is_size(value):
            raise CorruptedError(f"{path} says {name} {_shown(value)}, which is no possible size: mend it")
    for name in _LAYERS:
        if isinstance(settings.get(name), int) and settings[name] > _MOST_LAYERS:
            raise CorruptedError(f"{path} says {name} {settings[name]}, which is no possible number: mend it")
    names = settings.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise CorruptedError(f"{path} is damaged: architectures must be a list of names, not {_shown(names)}")
    labels = settings.get("id2label")
    if labels is not None and not _are_labels(labels):
        raise CorruptedError(f"{path} is damaged: id2label must name a label for each number, not {_shown(labels)}")
    if settings.get("quantization_config"):
        raise UnsupportedError(
            f"the weights are quantised already (quantization_config in {path}): take the model as it was before, "
            "its weights are quantised here"
        )


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_SIZE


def _are_labels(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(label, str | int) and re.fullmatch(r"\d{1,6}", number) for number, label in value.items()
    )


def _shown(value: object) -> str:
    return one_line(repr(value), 60)


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as tensors:
            types = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as exc:
        raise CorruptedError(f"{path} is damaged ({one_line(exc)}): fetch it again") from exc
    if not types:
        raise CorruptedError(f"{path} holds no weights: fetch it again")
    for name, kind in types.items():
        if name.endswith("weight") and kind not in (*_FLOATS, *_INTEGERS):
            raise UnsupportedError(
                f"{path} holds {name} as {kind}: weights must be {', '.join(_FLOATS)}, so take the model as it was "
                "before it was quantised"
            )


def stored_as(source: Source) -> str | None:
    """What most of the model's tensors are stored as, like fp16; None where that is not in safetensors."""
    from safetensors import safe_open

    kinds: Counter[str] = Counter()
    for name in source.files:
        if name.endswith(".safetensors"):
            with safe_open(source.folder / name, "numpy") as tensors:
                kinds.update(tensors.get_slice(key).get_dtype() for key in tensors.keys())  # noqa: SIM118  # no mapping
    return _FLOATS.get(kinds.most_common(1)[0][0]) if kinds else None


def check_sentencepiece(path: Path) -> None:
    """Raise CorruptedError if the file is no SentencePiece model."""
    from sentencepiece import SentencePieceProcessor

    try:
        SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError, ValueError) as exc:
        raise CorruptedError(
            f"{path} is no SentencePiece model ({one_line(exc, 120)}): fetch it again, or save the tokenizer with a "
            "tokenizer.json"
        ) from exc


def _check_pickle(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(4)
    if not head.startswith(_PICKLE_HEADS):
        raise CorruptedError(f"{path} is damaged: it is no file that PyTorch wrote: fetch it again")
