"""A Hugging Face checkpoint that every version of `transformers` reads alike, made for one start of a peer."""

import json
from pathlib import Path

from bench.contract import ModelFiles
from bench.peers.peer import PeerError


def copied(model: ModelFiles, folder: Path) -> Path:
    """Make `folder`: weights linked, tokenizer settings rewritten so that truncation is at the model's `max_length`.

    Raises:
        PeerError: The model has no checkpoint.
    """
    if model.checkpoint is None:
        raise PeerError(f"{model.name} has no Hugging Face checkpoint, which this peer needs: it exists as ONNX only")
    source = model.checkpoint.resolve()
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.name != "tokenizer_config.json":
            (folder / path.name).symlink_to(path)
    config = json.loads((source / "config.json").read_text())
    settings = source / "tokenizer_config.json"
    known = json.loads(settings.read_text()) if settings.exists() else {}
    write_json(folder / "tokenizer_config.json", tokenizer_settings(known, config, model.max_length))
    return folder


def tokenizer_settings(known: dict[str, object], config: dict[str, object], max_length: int) -> dict[str, object]:
    """Tokenizer settings of a checkpoint, for truncation to `max_length` tokens.

    A class that only one generation of `transformers` has is replaced by the one that reads `tokenizer.json` in all.
    """
    settings = {**known, "model_max_length": max_length}
    if settings.get("tokenizer_class") in (None, "TokenizersBackend"):
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        with_types = config.get("type_vocab_size", 0) not in (0, 1)
        types = ["token_type_ids"] if with_types else []
        settings["model_input_names"] = ["input_ids", *types, "attention_mask"]
    return settings


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON."""
    path.write_text(json.dumps(content, indent=1) + "\n")
