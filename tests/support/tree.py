"""Folders compared by content."""

import hashlib


def fingerprint(folder):
    """Names and checksums of all files below a folder, less those that Python adds wherever it runs code."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
