"""Files and standard input as streams of UTF-8 text: gzip is unpacked, and what is no text is told by its format."""

import contextlib
import gzip
import io
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from rejection_client._rows import InputError

BOM = b"\xef\xbb\xbf"
SNIFFED = 4096
"""Bytes from the start that tell a format."""
PARQUET = b"PAR1"
GZIP = b"\x1f\x8b"

_UTF_32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_FORMATS = {
    b"PK\x03\x04": "a zip archive, as those of office programs are",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"\xfd7zXZ\0": "packed with xz",
    b"BZh": "packed with bzip2",
    b"%PDF-": "a PDF file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3\0": "an SQLite database",
}


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The bytes of a file, or for `-` of standard input, unpacked where they are gzip.

    Raises InputError for what is no UTF-8 text, also where a gzip file turns out to be damaged; OSError.
    """
    with raw_file(path) as raw:
        stream: BinaryIO = raw
        try:
            if raw.peek(SNIFFED).startswith(GZIP):
                stream = _Unpacked(raw)
            _check_text(stream.peek(SNIFFED)[:SNIFFED], path)  # type: ignore[attr-defined]  # both are buffered
            yield stream
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{name_of(path)} is a damaged gzip file: {error}") from error


class _Unpacked(io.BufferedReader):
    """What a gzip file holds; `tell` counts the packed bytes."""

    def __init__(self, raw: io.BufferedReader) -> None:
        super().__init__(gzip.GzipFile(fileobj=raw))
        self._packed = raw

    def packed_bytes(self) -> int:
        """Bytes of the packed file that are read."""
        return self._packed.tell()


def packed_position(stream: BinaryIO, unpacked: int) -> int:
    """Where a stream is in its file, after so many bytes of what the file holds."""
    if isinstance(stream, _Unpacked):
        with contextlib.suppress(OSError):  # a pipe
            return stream.packed_bytes()
    return unpacked


def raw_file(path: str) -> io.BufferedReader:
    """The file, or for `-` standard input, through a buffer of its own: the process may end while a thread reads."""
    if path == "-":
        # None is Python's sign for a closed descriptor.
        return Path(os.devnull).open("rb") if sys.stdin is None else open(sys.stdin.fileno(), "rb", closefd=False)
    return Path(path).open("rb")


def name_of(path: str) -> str:
    """What to call it in a message."""
    return "standard input" if path == "-" else path


def input_bytes(paths: Sequence[str]) -> int | None:
    """Length of all input together, None where it cannot be known."""
    total = 0
    for path in paths or ["-"]:
        try:
            status = os.fstat(0) if path == "-" else os.stat(path)  # noqa: PTH116  # as for the descriptor
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        total += status.st_size
    return total


def read_document(path: str) -> str:
    """A whole file, or standard input for `-`, as one text; raises InputError for bytes that are not UTF-8."""
    with opened(path) as stream:
        raw = stream.read()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name_of(path)} is not UTF-8: {error.reason} at byte {error.start}") from error


def _check_text(head: bytes, path: str) -> None:
    """Raise InputError if that is how something other than UTF-8 text begins."""
    name = name_of(path)
    if head.startswith(PARQUET):
        raise InputError(f"{name} is a Parquet file, not text; name the column that holds the texts with --parquet")
    encoding = "UTF-32" if head.startswith(_UTF_32) else "UTF-16" if head.startswith(_UTF_16) else _bare_utf_16(head)
    if encoding:
        given = "" if path == "-" else f" '{path}'"
        raise InputError(
            f"{name} is {encoding}, and UTF-8 is read; convert it first: iconv -f {encoding} -t UTF-8{given}"
        )
    for magic, what in _FORMATS.items():
        if head.startswith(magic):
            raise InputError(f"{name} is {what}, not text; give UTF-8 text, plain or packed with gzip")
    if b"\0" in head and not _is_utf_8(head):
        raise InputError(f"{name} is binary, not text; give UTF-8 text, plain or packed with gzip")


def _bare_utf_16(head: bytes) -> str | None:
    """The encoding of Latin text in UTF-16 without a byte order mark: every second byte is zero, and no other."""
    pairs = re.fullmatch(rb"(?:([^\0]\0){4,}|(\0[^\0]){4,}).?", head, re.DOTALL)
    return None if pairs is None else "UTF-16LE" if pairs[1] else "UTF-16BE"


def _is_utf_8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.end == len(head) and error.reason == "unexpected end of data"  # cut within a character
    return True
