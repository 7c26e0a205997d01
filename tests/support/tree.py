"""Folders compared by content."""

import hashlib
from pathlib import Path


def fingerprint(folder: Path) -> dict[str, str]:
    """Names and checksums of all files below a folder, less those that Python adds wherever it runs code."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
