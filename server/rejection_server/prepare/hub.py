"""Files of a repository on the Hugging Face hub: fetched into its client's cache, and compared with their checksums."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from rejection_server.prepare.checksum import digest
from rejection_server.prepare.errors import (
    DISK_FULL,
    CorruptedError,
    DiskFullError,
    GatedError,
    NetworkError,
    PrepareError,
    SourceError,
)
from rejection_server.wording import one_line

T = TypeVar("T")


class HubRepository:
    """One commit of a repository."""

    def __init__(self, model: str, revision: str | None, first: Iterable[str]) -> None:
        """Find it by its id, and by a commit, branch or tag, and fetch those of the files named `first` that it has.

        Raises SourceError and its kin, NetworkError or DiskFullError.
        """
        from huggingface_hub import get_cached_repo_tree, snapshot_download

        self._model = model
        self._where = model if revision is None else f"{model} at revision {revision}"
        fetched = _asked(self._where, lambda: snapshot_download(model, revision=revision, allow_patterns=list(first)))
        self.folder = Path(fetched)
        self.commit = self.folder.name
        self.files = {file.path: file for file in get_cached_repo_tree(model, revision=self.commit)}
        """What the hub says of each file, by name."""

    def fetch(self, names: Iterable[str]) -> None:
        """Fetch files, and compare each with its checksum; raises what the constructor does."""
        from huggingface_hub import snapshot_download

        names = list(names)
        _asked(self._where, lambda: snapshot_download(self._model, revision=self.commit, allow_patterns=names))
        for name in names:
            if not (self.folder / name).exists():
                raise NetworkError(f"{name} of {self._where} is not in the cache and the hub could not be asked for it")
            entry = self.files[name]
            check_download(self.folder / name, None if entry.lfs is None else entry.lfs.sha256, entry.blob_id)


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
