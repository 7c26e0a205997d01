"""Keeps what libraries and their processes print away from the person who prepares a model."""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

_STDERR = 2


@contextlib.contextmanager
def only_our_words(*, verbose: bool) -> Iterator[None]:
    """Within it only what Python code of this process writes to `sys.stderr` is seen, unless `verbose`.

    Whatever libraries in C++ write, and all processes started from here, goes to a file without a name that the system
    drops in the end. The first process that multiprocessing starts for itself has to start within it.
    """
    if verbose:
        yield
        return
    before = sys.stderr
    with (
        tempfile.TemporaryFile() as unseen,
        os.fdopen(os.dup(_STDERR), "w", encoding=before.encoding, errors="backslashreplace", buffering=1) as seen,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        os.dup2(unseen.fileno(), _STDERR)
        sys.stderr = seen
        try:
            yield
        finally:
            seen.flush()
            os.dup2(seen.fileno(), _STDERR)
            sys.stderr = before
