"""From the name of a model to its files on this machine: a folder, or a repository on the Hugging Face hub.

Only the files that preparing needs are fetched, and each is compared with the checksum under which the hub lists it.
Code from the hub is never among them.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rejection_server.commands import installing
from rejection_server.prepare.errors import (
    DISK_FULL,
    CorruptedError,
    DiskFullError,
    GatedError,
    MissingPackageError,
    NetworkError,
    PrepareError,
    SourceError,
    UnsupportedError,
)
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
    "tokenizer.model",
)
"""What a tokenizer without a `tokenizer.json` is made of."""
ONNX_FILES = ("onnx/model.onnx", "model.onnx")
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"

_log = logging.getLogger(__name__)
T = TypeVar("T")


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

    @property
    def title(self) -> str:
        """Short name: what follows the last slash."""
        return Path(self.name).resolve().name if self.revision is None else self.name.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Choice:
    """Which of a model's files are used."""

    onnx: str | None
    weights: str | None
    files: tuple[str, ...]


def choose_files(names: Iterable[str], *, has_torch: bool, allow_pickle: bool) -> Choice:
    """Choose among a model's files: an ONNX file if there is one, else weights to export.

    With PyTorch at hand the weights are used beside an ONNX file too, because they say what the model answers.
    Raises SourceError, UnsupportedError or MissingPackageError when what there is does not do.
    """
    names = set(names)
    if CONFIG not in names:
        raise SourceError(f"the model has no {CONFIG}: it is not in Hugging Face's format")
    onnx = next((name for name in ONNX_FILES if name in names), None)
    weights = next((name for name in (SAFETENSORS, SAFETENSORS_INDEX) if name in names), None)
    if weights is None and PICKLE in names and allow_pickle:
        weights = PICKLE
    if onnx is None and weights is None:
        if PICKLE in names:
            raise UnsupportedError(
                f"the model's weights are only there as {PICKLE}, a pickle, which can run any code when it is read: "
                "if you trust its author, allow it with --allow-pickle"
            )
        raise SourceError(f"the model has neither {SAFETENSORS} nor an ONNX file ({' or '.join(ONNX_FILES)})")
    if onnx is None and not has_torch:
        raise MissingPackageError(
            "the model has no ONNX file, and exporting its weights needs PyTorch, which is not installed: "
            f"run {installing('export')}"
        )
    if not has_torch:
        weights = None
    files = [CONFIG, *(name for name in TOKENIZER_SETTINGS if name in names)]
    tokenizer = [TOKENIZER_JSON] if TOKENIZER_JSON in names else [name for name in TOKENIZER_SOURCES if name in names]
    if not tokenizer:
        raise SourceError("the model has no tokenizer: neither tokenizer.json nor a vocabulary is beside it")
    files += tokenizer
    if onnx is not None:
        files += sorted(name for name in names if name == onnx or name.startswith((f"{onnx}_", f"{onnx}.")))
    if weights is not None:
        files.append(weights)
    return Choice(onnx, weights, tuple(files))


def find_source(model: str, revision: str | None, *, has_torch: bool, allow_pickle: bool = False) -> Source:
    """Find or fetch the model's files; `model` is a folder or an id on the hub.

    Raises SourceError and its kin, NetworkError, DiskFullError, UnsupportedError or MissingPackageError.
    """
    folder = Path(model)
    if folder.is_dir():
        if revision is not None:
            raise SourceError(f"{model} is a folder, and a folder has no revisions: leave --revision away")
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        choice = choose_files(names, has_torch=has_torch, allow_pickle=allow_pickle)
        files = choice.files + _shards(folder, choice.weights)
        for name in files:
            if not (folder / name).is_file():
                raise SourceError(f"{folder / SAFETENSORS_INDEX} names {name}, which is not in the folder")
        check_inside(folder, files)
        return Source(model, None, folder, files, choice.onnx, choice.weights)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise SourceError(f"there is no folder {model}: name an existing one or an id on the hub, like name/model")
    return _fetch(model, revision, has_torch, allow_pickle)


def _shards(folder: Path, weights: str | None) -> tuple[str, ...]:
    if weights != SAFETENSORS_INDEX:
        return ()
    return tuple(sorted(set(read_json(folder / SAFETENSORS_INDEX)["weight_map"].values())))


def _fetch(model: str, revision: str | None, has_torch: bool, allow_pickle: bool) -> Source:
    from huggingface_hub import get_cached_repo_tree, snapshot_download

    where = f"{model}" if revision is None else f"{model} at revision {revision}"
    first = [CONFIG, *TOKENIZER_SETTINGS]
    folder = Path(_asked(where, lambda: snapshot_download(model, revision=revision, allow_patterns=first)))
    commit = folder.name
    listed = {file.path: file for file in get_cached_repo_tree(model, revision=commit)}
    choice = choose_files(listed, has_torch=has_torch, allow_pickle=allow_pickle)
    _asked(where, lambda: snapshot_download(model, revision=commit, allow_patterns=list(choice.files)))
    shards = _shards(folder, choice.weights)
    if shards:
        _asked(where, lambda: snapshot_download(model, revision=commit, allow_patterns=list(shards)))
    files = choice.files + shards
    for name in files:
        entry = listed.get(name)
        if entry is None:
            raise SourceError(f"{SAFETENSORS_INDEX} of {model} names {name}, which the hub does not have")
        if not (folder / name).exists():
            raise NetworkError(f"{name} of {where} is not in the cache and the hub could not be asked for it")
        check_download(folder / name, None if entry.lfs is None else entry.lfs.sha256, entry.blob_id)
    return Source(model, commit, folder, files, choice.onnx, choice.weights)


def check_download(path: Path, sha256: str | None, blob_id: str) -> None:
    """Compare a fetched file with its checksum on the hub: SHA-256 for large files, git's blob id for others.

    A file that does not match is removed from the cache, so that the next run fetches it anew. Raises CorruptedError.
    """
    size = path.stat().st_size
    found = digest(path) if sha256 else digest(path, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))
    if found != (sha256 or blob_id):
        blob = path.resolve()
        path.unlink()
        blob.unlink(missing_ok=True)
        raise CorruptedError(
            f"the download of {path.name} is corrupted (checksum {found[:12]}..., the hub lists "
            f"{(sha256 or blob_id)[:12]}...): it was removed from the cache, so start again"
        )


def digest(path: Path, state: Any = None) -> str:
    """Checksum of a file in hexadecimal, SHA-256 unless another hash is given."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: state or hashlib.sha256()).hexdigest()


def read_json(path: Path) -> Any:
    """Content of a JSON file; raises CorruptedError naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise CorruptedError(f"{path} is not valid JSON: {exc}") from exc


def _asked(where: str, ask: Callable[[], T]) -> T:
    """What the hub answers, its errors as ours."""
    from httpx2 import HTTPError
    from huggingface_hub import errors

    try:
        return ask()
    except (OSError, HTTPError, errors.HFValidationError) as exc:
        raise _not_given(where, exc) or _not_reached(where, exc) from exc


def _not_given(where: str, exc: Exception) -> PrepareError | None:
    """What the hub's refusal means; None if it did not refuse."""
    from huggingface_hub import errors

    if isinstance(exc, errors.GatedRepoError):
        return GatedError(
            f"{where} is gated: ask for access on its page on the hub, then set HF_TOKEN to a token of that account"
        )
    if isinstance(exc, errors.RevisionNotFoundError):
        return SourceError(f"the hub has no {where}: look up the commit, branch or tag on its page")
    if isinstance(exc, errors.RepositoryNotFoundError):
        return SourceError(
            f"the hub has no model {where}, or it is private: check the spelling, or set HF_TOKEN to a token with "
            "access"
        )
    if isinstance(exc, errors.HFValidationError):
        return SourceError(f"'{where}' is neither a folder nor an id on the hub, which looks like name/model")
    # After a look into the cache what sent it there is the cause.
    refusal = exc.__cause__ if isinstance(exc, errors.LocalEntryNotFoundError) else exc
    if isinstance(refusal, errors.HfHubHTTPError):
        return NetworkError(f"the hub answered status {refusal.response.status_code} for {where}: try again later")
    return None


def _not_reached(where: str, exc: Exception) -> PrepareError:
    """What it means that the hub's answer did not come, not whole, or could not be stored."""
    from httpx2 import HTTPError
    from huggingface_hub import constants, errors

    if isinstance(exc, HTTPError | ConnectionError | TimeoutError | errors.LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return NetworkError(
                f"{where} is not complete in the hub's cache, and HF_HUB_OFFLINE forbids asking the hub"
            )
        return NetworkError(
            f"the hub ({constants.ENDPOINT}) could not be reached for {where}: check the network, HF_ENDPOINT and "
            "proxies"
        )
    if isinstance(exc, OSError) and exc.errno in DISK_FULL:
        return DiskFullError(f"the disk is full: {where} could not be stored in the hub's cache (HF_HOME)")
    # What the hub's client says when it got fewer bytes than it was promised.
    if "Consistency check failed" in str(exc):
        return CorruptedError(f"the download of {where} ended too early: start again, it resumes")
    return SourceError(f"{where} could not be fetched: {one_line(exc)}")
