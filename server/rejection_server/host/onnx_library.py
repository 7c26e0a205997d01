"""What an installed Triton's onnxruntime is too old for: the reason of a failed load, with what to do about it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from rejection_server.commands import command
from rejection_server.host.errors import HostError, ModelLoadError

__all__ = ["too_old", "version"]

# What onnxruntime says of a file with a newer format, newer standard operators, or operators that it does not have.
_TOO_NEW = re.compile(
    r"Unsupported model IR version|official support for domain \S+ is till opset|is not a registered function/op|"
    r"Could not find an implementation for|No Op registered for"
)
ASK_TIMEOUT_S = 30.0
# struct OrtApiBase { const OrtApi* (*GetApi)(uint32_t); const char* (*GetVersionString)(void); };
_ASK = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.OrtGetApiBase.restype = ctypes.POINTER(ctypes.c_void_p)
print(ctypes.CFUNCTYPE(ctypes.c_char_p)(library.OrtGetApiBase()[1])().decode())
"""


def version(backends: Path) -> str | None:
    """Version of the onnxruntime that a Triton's backend is linked with, None if it cannot be told.

    The library itself is asked, in a process of its own.
    """
    for library in sorted((backends / "onnxruntime").glob("libonnxruntime.so*")):
        asked = [sys.executable, "-I", "-S", "-c", _ASK, str(library)]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=ASK_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return done.stdout.strip()
    return None


def too_old(failure: HostError | None, backends: Path | None) -> HostError | None:
    """The failure, in words that name the cause if a model was refused because the onnxruntime in `backends` is older.

    `backends` is None for the stand-in, whose onnxruntime is the one that models are prepared with.
    """
    if backends is None or not isinstance(failure, ModelLoadError) or not _TOO_NEW.search(failure.reason):
        return failure
    return ModelLoadError(
        failure.model,
        f"the graph needs a newer onnxruntime than this Triton's, {version(backends) or 'of unknown version'}: use a "
        f"newer image of Triton, or make the repository with {command('prepare')} for this one ({failure.reason})",
    )
