"""From the name of a model to its files on this machine: a folder, or a repository on the Hugging Face hub.

Only the files that preparing needs are fetched, and each is compared with the checksum under which the hub lists it.
Code from the hub is never among them.
"""

import json
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rejection_server.commands import installing
from rejection_server.prepare.checksum import digest
from rejection_server.prepare.errors import (
    CorruptedError,
    MissingPackageError,
    PrepareError,
    SourceError,
    UnsupportedError,
)
from rejection_server.prepare.hub import HubRepository
from rejection_server.prepare.inside import check_inside
from rejection_server.wording import one_line

CONFIG = "config.json"
TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZER_SOURCES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "tokenizer.model",
)
"""What a tokenizer without a `tokenizer.json` is made of."""
ONNX_FILES = ("onnx/model.onnx", "model.onnx")
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
PICKLES = (PICKLE, PICKLE_INDEX)
INDEXES = (SAFETENSORS_INDEX, PICKLE_INDEX)
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_OTHER_WEIGHTS = (".onnx", ".safetensors", ".h5", ".msgpack", ".gguf", ".bin", ".pt", ".ckpt", ".tflite")
_KINDS = {
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    type(None): "null",
}


@dataclass(frozen=True)
class Source:
    """A model's files."""

    name: str
    """Hub id, or the path of the folder as it was given."""
    revision: str | None
    """Commit on the hub; None for a folder."""
    folder: Path
    files: tuple[str, ...]
    """Names, relative to `folder`, of every file that is used."""
    onnx: str | None
    """The ONNX file among them; None when the model has to be exported from its weights."""
    weights: str | None
    """The file (or index) with PyTorch weights; None when they are not needed or not allowed."""
    base: "Source | None" = None
    """The model that an adapter changes; None for a whole model."""
    merged_from: "Source | None" = None
    """The adapter whose merged form this is."""

    @property
    def title(self) -> str:
        """Short name: what follows the last slash."""
        return Path(self.name).resolve().name if self.revision is None else self.name.rsplit("/", 1)[-1]

    def without_onnx(self) -> "Source":
        """The same without its ONNX file."""
        names = tuple(name for name in self.files if self.onnx is None or not name.startswith(self.onnx))
        return replace(self, files=names, onnx=None)

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every file that is used, an adapter's base included, in hexadecimal."""
        if self.merged_from is not None:
            return self.merged_from.checksums()
        base = {} if self.base is None else self.base.checksums()
        return {name: digest(self.folder / name) for name in self.files} | {
            f"base/{name}": value for name, value in base.items()
        }


@dataclass(frozen=True)
class Choice:
    """Which of a model's files are used."""

    onnx: str | None
    weights: str | None
    files: tuple[str, ...]
    is_adapter: bool = False
    """Whether they are a PEFT adapter, whose base is another model."""


def choose_files(names: Iterable[str], *, has_torch: bool, allow_pickle: bool) -> Choice:
    """Choose among a model's files: an ONNX file if there is one, else weights to export.

    With PyTorch at hand the weights are used beside an ONNX file too, because they say what the model answers.
    Raises SourceError, UnsupportedError or MissingPackageError when what there is does not do.
    """
    names = set(names)
    has_adapter = ADAPTER_CONFIG in names
    if not has_adapter and CONFIG not in names:
        raise SourceError(f"the model has no {CONFIG}: it is not in Hugging Face's format")
    onnx = next((name for name in ONNX_FILES if name in names), None)
    weights = next((name for name in (SAFETENSORS, SAFETENSORS_INDEX) if name in names), None)
    pickle = next((name for name in PICKLES if name in names), None)
    if weights is None and allow_pickle:
        weights = pickle
    if has_adapter:
        return _choose_adapter(names, onnx or weights or pickle, has_torch=has_torch)
    if onnx is None and weights is None:
        raise _no_weights(names, pickle)
    if not has_torch:
        if onnx is None:
            raise MissingPackageError(
                "the model has no ONNX file, and exporting its weights needs PyTorch, which is not installed: "
                f"run {installing('export')}"
            )
        weights = None
    tokenizer = _tokenizer_files(names)
    if not tokenizer:
        raise SourceError(
            f"the model has no tokenizer that can be read: neither {TOKENIZER_JSON} nor a vocabulary "
            f"({', '.join(TOKENIZER_SOURCES)}) is beside it; tokenizers that exist in Python only, such as CANINE's, "
            "cannot be served"
        )
    files = [CONFIG, *tokenizer]
    if onnx is not None:
        files += sorted(name for name in names if name == onnx or name.startswith((f"{onnx}_", f"{onnx}.")))
    if weights is not None:
        files.append(weights)
    return Choice(onnx, weights, tuple(files))


def _tokenizer_files(names: Set[str]) -> list[str]:
    """The files that a tokenizer is read from, none if there is none."""
    sources = (TOKENIZER_JSON,) if TOKENIZER_JSON in names else TOKENIZER_SOURCES
    found = [name for name in sources if name in names]
    return [name for name in TOKENIZER_SETTINGS if name in names] + found if found else []


def _choose_adapter(names: Set[str], whole: str | None, *, has_torch: bool) -> Choice:
    if whole:
        raise UnsupportedError(
            f"there are both a whole model ({whole}) and a PEFT adapter ({ADAPTER_CONFIG}), and which is meant cannot "
            "be told: remove the files of one"
        )
    if ADAPTER_WEIGHTS not in names:
        raise SourceError(f"the model is a PEFT adapter ({ADAPTER_CONFIG}) without {ADAPTER_WEIGHTS}")
    if not has_torch:
        raise MissingPackageError(
            f"the model is a PEFT adapter, and merging it with its base needs PyTorch: run {installing('export')}"
        )
    held = [name for name in (CONFIG,) if name in names]
    return Choice(None, ADAPTER_WEIGHTS, (ADAPTER_CONFIG, ADAPTER_WEIGHTS, *held, *_tokenizer_files(names)), True)


def _no_weights(names: Set[str], pickle: str | None) -> PrepareError:
    """Why there is nothing to serve; `pickle` is what may not be read."""
    if pickle is not None:
        return UnsupportedError(
            f"the model's weights are only there as {pickle}, a pickle, which can run any code when it is read: "
            "if you trust its author, allow it with --allow-pickle"
        )
    others = sorted(name for name in names if name.endswith(_OTHER_WEIGHTS))
    held = f"; it has {others[0]}, which is not read" if others else ""
    return SourceError(f"the model has neither {SAFETENSORS} nor an ONNX file ({' or '.join(ONNX_FILES)}){held}")


def find_source(model: str, revision: str | None, *, has_torch: bool, allow_pickle: bool = False) -> Source:
    """Find or fetch the model's files; `model` is a folder or an id on the hub.

    Raises SourceError and its kin, NetworkError, DiskFullError, UnsupportedError or MissingPackageError.
    """
    folder = Path(model)
    try:
        kind = "folder" if folder.is_dir() else "file" if folder.exists() else ""
    except (OSError, ValueError) as exc:  # a name too long, or one with a NUL
        raise SourceError(f"{model!r} cannot be looked up: {one_line(exc)}") from exc
    if kind == "file":
        raise SourceError(f"{model} is a file: name the folder that holds it, with {CONFIG} and a tokenizer")
    if not kind and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise SourceError(f"there is no folder {model}: name an existing one or an id on the hub, like name/model")
    if not kind:
        source = _fetch(model, revision, has_torch, allow_pickle)
    elif revision is not None:
        raise SourceError(f"{model} is a folder, and a folder has no revisions: leave --revision away")
    else:
        source = _found(model, folder, has_torch, allow_pickle)
    if source.weights != ADAPTER_WEIGHTS:
        return source
    return replace(source, base=_base_of(source, allow_pickle))


def _found(model: str, folder: Path, has_torch: bool, allow_pickle: bool) -> Source:
    """The model's files in a folder."""
    choice = choose_files(_listed(folder), has_torch=has_torch, allow_pickle=allow_pickle)
    shards = _shards(folder, choice.weights)
    for name in shards:
        if not (folder / name).is_file():
            raise SourceError(f"{folder / str(choice.weights)} names {name}, which is not in the folder")
    files = choice.files + shards
    check_inside(folder, files)
    return Source(model, None, folder, files, choice.onnx, choice.weights)


def _listed(folder: Path) -> list[str]:
    """Names of the files that may be a model's; raises SourceError."""
    try:
        found = [folder, *(path for path in (folder / "onnx",) if path.is_dir())]
        return [p.relative_to(folder).as_posix() for path in found for p in path.iterdir() if p.is_file()]
    except OSError as exc:
        raise SourceError(f"{exc.filename} cannot be read: {exc.strerror}") from exc


def _base_of(adapter: Source, allow_pickle: bool) -> Source:
    """The model that an adapter changes; raises what `find_source` does."""
    settings = read_object(adapter.folder / ADAPTER_CONFIG)
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(name, str) or not name:
        raise SourceError(f"{ADAPTER_CONFIG} does not say which model it changes (base_model_name_or_path)")
    try:
        return find_source(
            name, revision if isinstance(revision, str) else None, has_torch=True, allow_pickle=allow_pickle
        )
    except PrepareError as exc:
        raise type(exc)(
            f"the base of the adapter {adapter.name} ({name}, see {ADAPTER_CONFIG}) cannot be used: {exc}"
        ) from exc


def _shards(folder: Path, weights: str | None) -> tuple[str, ...]:
    """The files that an index names; none if `weights` is no index. Raises CorruptedError."""
    if weights not in INDEXES:
        return ()
    places = read_object(folder / str(weights)).get("weight_map")
    # Of any other kind transformers would read it as a pickle.
    kind = ".safetensors" if weights == SAFETENSORS_INDEX else ".bin"
    held = list(places.values()) if isinstance(places, dict) else []
    names = {name for name in held if _is_name(name, kind)}
    if not names or not all(_is_name(name, kind) for name in held):
        raise CorruptedError(
            f"{folder / str(weights)} is damaged: its weight_map must name a {kind} file of this folder for each tensor"
        )
    return tuple(sorted(names))


def _is_name(value: object, kind: str) -> bool:
    """Whether it names a file of the same folder, of that kind."""
    return isinstance(value, str) and value.isprintable() and value == Path(value).name and value.endswith(kind)


def _fetch(model: str, revision: str | None, has_torch: bool, allow_pickle: bool) -> Source:
    hub = HubRepository(model, revision, (CONFIG, ADAPTER_CONFIG, *TOKENIZER_SETTINGS))
    choice = choose_files(hub.files, has_torch=has_torch, allow_pickle=allow_pickle)
    hub.fetch(choice.files)
    shards = _shards(hub.folder, choice.weights)
    for name in shards:
        if name not in hub.files:
            raise SourceError(f"{choice.weights} of {model} names {name}, which the hub does not have")
    if shards:
        hub.fetch(shards)
    return Source(model, hub.commit, hub.folder, choice.files + shards, choice.onnx, choice.weights)


def read_json(path: Path) -> Any:
    """Content of a JSON file; raises CorruptedError naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as exc:
        raise CorruptedError(f"{path} is not valid JSON: {one_line(exc)}") from exc
    except OSError as exc:
        raise CorruptedError(f"{path} cannot be read: {exc.strerror}") from exc


def read_object(path: Path) -> dict[str, Any]:
    """Content of a JSON file that holds an object; raises CorruptedError naming the file."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise CorruptedError(f"{path} is damaged: it must hold a JSON object, this one holds {_KINDS[type(value)]}")
    return value
