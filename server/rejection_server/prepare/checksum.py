"""Checksums of files."""

import hashlib
from pathlib import Path
from typing import Any


def digest(path: Path, state: Any = None) -> str:
    """Checksum of a file in hexadecimal, SHA-256 unless another hash is given."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: state or hashlib.sha256()).hexdigest()
