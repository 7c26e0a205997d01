"""Files of results, to which whole records are appended, and what of them is whole after a run that was stopped."""

import contextlib
import gzip
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from rejection_client._rows import InputError
from rejection_client._sources import GZIP

if sys.platform != "win32":
    import fcntl

MEMBER_BYTES = 1 << 20
"""Of records that a packed file gets at once, as a gzip member of its own: what a kill can lose."""
MEMBER_S = 10.0
"""Seconds after which it gets fewer."""
CHUNK_BYTES = 1 << 16


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Let an OSError in the block say which file it is of."""
    try:
        yield
    except OSError as error:
        error.filename = path
        raise


def is_packed(path: str) -> bool:
    """Whether a file of results is gzip, by its name."""
    return path.lower().endswith(".gz")


class ResultFile:
    """Appends records to a file from `start` on, or to a new one; every write leaves whole records there.

    Raises InputError while another run writes to it, OSError.
    """

    def __init__(self, path: str, start: int | None = None) -> None:
        self._path = path
        self._packs = is_packed(path)
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._held_since_s = time.monotonic()
        self._file = Path(path).open("xb" if start is None else "r+b")  # noqa: SIM115  # __exit__ closes it
        self._lock()
        if start is not None:
            self._file.truncate(start)
            self._file.seek(start)

    def _lock(self) -> None:
        """Keep other runs from the file until it is closed; a run that is killed leaves no lock."""
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise InputError(
                f"{self._path} is being written by another run; wait for its end, or name another --output-file"
            ) from error
        except OSError:  # a file system without locks
            return

    def write(self, text: str) -> None:
        """Write some records. Raises OSError."""
        raw = text.encode("utf-8", "backslashreplace")
        if not self._packs:
            self._append(raw)
            return
        self._held.append(raw)
        self._held_bytes += len(raw)
        if self._held_bytes >= MEMBER_BYTES or time.monotonic() - self._held_since_s >= MEMBER_S:
            self._append_member()

    def _append_member(self) -> None:
        held, self._held, self._held_bytes = b"".join(self._held), [], 0
        if held:
            self._append(gzip.compress(held, 6))
        self._held_since_s = time.monotonic()

    def _append(self, raw: bytes) -> None:
        with named(self._path):
            self._file.write(raw)
            self._file.flush()

    def __enter__(self) -> Self:
        """Give the file itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Write what is held back, also after an interrupt; not to a full disk, of which is told already."""
        if isinstance(error, OSError):
            with contextlib.suppress(OSError):  # the file's own buffer
                self._file.close()
            return
        try:
            self._append_member()
        finally:
            with named(self._path):
                self._file.close()


class Written:
    """The whole records of a file of results; `end` is where the last that was read ends in the file."""

    def __init__(self, path: str, *, is_csv: bool) -> None:
        self._path = path
        self._is_csv = is_csv
        self.end = 0
        self.rest = b""
        """What follows the last whole record: the beginning of one, if it was cut."""

    def records(self) -> Iterator[bytes]:
        """The records in order. Raises InputError, OSError."""
        return self._packed() if is_packed(self._path) else self._plain()

    def _plain(self) -> Iterator[bytes]:
        with Path(self._path).open("rb") as file:
            for record, is_whole in self._split(file):
                if is_whole:
                    self.end += len(record)
                    yield record
                else:
                    self.rest = record

    def _packed(self) -> Iterator[bytes]:
        """Records of whole members alone."""
        end, unpacked = _whole_members(self._path)
        if end == 0:
            with Path(self._path).open("rb") as file:
                self.rest = file.read(CHUNK_BYTES)
            return
        with gzip.open(self._path) as members:
            for record, is_whole in self._split(members):
                unpacked -= len(record)
                if not is_whole or unpacked < 0:
                    raise InputError(
                        f"{self._path} has a gzip member that ends within a record, so it is not of this command; name "
                        "another --output-file"
                    )
                yield record
                if unpacked == 0:
                    break
        self.end = end

    def _split(self, file: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
        """Each record and whether it is whole: in CSV, a line within quotes goes on."""
        lines: list[bytes] = []
        quotes = 0
        for line in file:
            lines.append(line)
            quotes += line.count(b'"') if self._is_csv else 0
            if line.endswith(b"\n") and quotes % 2 == 0:
                yield b"".join(lines), True
                lines, quotes = [], 0
        if lines:
            yield b"".join(lines), False


def _whole_members(path: str) -> tuple[int, int]:
    """Where the last whole gzip member of a file ends, and the unpacked bytes up to there."""
    end = unpacked = read = inside = 0
    member = zlib.decompressobj(wbits=31)
    with Path(path).open("rb") as file:
        rest = b""
        try:
            while chunk := rest or file.read(CHUNK_BYTES):
                read += 0 if rest else len(chunk)
                inside += len(member.decompress(chunk))
                rest = member.unused_data
                if member.eof:
                    end, unpacked, inside = read - len(rest), unpacked + inside, 0
                    member = zlib.decompressobj(wbits=31)
                else:
                    rest = b""
        except zlib.error:  # what a machine that lost power may leave
            pass
    return end, unpacked


def looks_cut(rest: bytes, path: str) -> bool:
    """Whether a file without a whole record, where this is all, may be one that was stopped at its first JSON line."""
    begins = GZIP if is_packed(path) else b'{"text": '
    return rest[: len(begins)] == begins[: len(rest)]
