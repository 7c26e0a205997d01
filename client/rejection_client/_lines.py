"""Texts from arguments or a stream, cut into requests."""

import itertools
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

BATCH = 64
"""Texts a request at most; a server that takes fewer gets them in several."""

READ_BYTES = 64 * 1024


class Row(NamedTuple):
    """One text to classify, and what to call it in a message."""

    text: str
    place: str


def batched(rows: Iterable[Row]) -> Iterator[tuple[Row, ...]]:
    """Cut rows into requests of at most `BATCH`."""
    iterator = iter(rows)
    while batch := tuple(itertools.islice(iterator, BATCH)):
        yield batch


def read_batches(stream: BinaryIO) -> Iterator[tuple[Row, ...]]:
    r"""Read lines (ending in \n or \r\n) into requests of at most `BATCH`, without waiting for a request to fill.

    A line that is there is never held back for the next one, so results keep up with a slow writer; memory holds
    one read and one line. Bytes that are not UTF-8 become lone surrogates, which the client refuses by row.
    """
    numbers = itertools.count(1)

    def row(line: bytes) -> Row:
        return Row(line.removesuffix(b"\r").decode(errors="surrogateescape"), f"line {next(numbers)}")

    unfinished: list[bytes] = []
    while block := stream.read1(READ_BYTES):  # type: ignore[attr-defined]  # what BufferedReader adds to BinaryIO
        *lines, rest = block.split(b"\n")
        if lines:
            lines[0] = b"".join((*unfinished, lines[0]))
            unfinished.clear()
            yield from batched(map(row, lines))
        unfinished.append(rest)
    if last := b"".join(unfinished):
        yield (row(last),)
