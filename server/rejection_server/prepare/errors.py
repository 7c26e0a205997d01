"""What can go wrong while a model is prepared, each with a message of one sentence.

PrepareError
├── SourceError          no such model, revision or folder, or files are missing from it
│   ├── GatedError       the hub wants a token with access to this model
│   └── CorruptedError   a file is not what it should be: broken download, damaged weights
├── NetworkError         the hub cannot be reached
├── UnsupportedError     not a text classifier, or one of a kind that cannot be served
│   └── VocabularyError  tokenizer and model do not belong together
├── MissingPackageError  a package is needed that is not installed
├── OutputError          the repository cannot be written there
│   └── DiskFullError    no space is left for files
├── GateError            the prepared model does not answer like the original
├── OutOfMemoryError     a step needed more memory than there is
└── UnexpectedError      nobody foresaw it: a fault of this program
"""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when no more can be written."""


class PrepareError(Exception):
    """Base of every error of preparing; `str()` is one sentence for a person."""


class SourceError(PrepareError):
    """The model cannot be found, or files of it are missing."""


class GatedError(SourceError):
    """The hub gives this model only to accounts that have access."""


class CorruptedError(SourceError):
    """A file of the model is damaged."""


class NetworkError(PrepareError):
    """The hub could not be reached."""


class UnsupportedError(PrepareError):
    """The model is not a text classifier, or not one that can be served."""


class VocabularyError(UnsupportedError):
    """The tokenizer gives ids that the model has no embedding for."""


class MissingPackageError(PrepareError):
    """A package that only some models need is not installed."""


class OutputError(PrepareError):
    """The repository cannot be written where it should be."""


class DiskFullError(OutputError):
    """The disk, or the user's share of it, is full."""


class GateError(PrepareError):
    """The prepared model's answers differ from the original's by more than is allowed."""


class OutOfMemoryError(PrepareError):
    """A step was killed or failed for want of memory."""


class UnexpectedError(PrepareError):
    """What no step foresaw."""

    def __init__(self, step: str, what: str) -> None:
        super().__init__(
            f"preparing failed in '{step}' ({what}): this is a fault of rejection-server, please report it with what "
            "--verbose prints"
        )
        self.step, self.what = step, what

    def __reduce__(self) -> tuple[type["UnexpectedError"], tuple[str, str]]:
        return UnexpectedError, (self.step, self.what)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write `path` into our errors."""
    try:
        yield
    except OSError as exc:
        if exc.errno in DISK_FULL:
            raise DiskFullError(f"the disk is full: {path.name} could not be written beside the output") from exc
        raise OutputError(f"{path.name} could not be written beside the output: {exc.strerror}") from exc
