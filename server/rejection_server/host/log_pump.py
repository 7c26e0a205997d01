"""Triton's log on its way from the pipe to whoever reads it: whole lines, and not the same one a thousand times."""

from __future__ import annotations

import collections
import re
import select
import time
from collections.abc import Callable, Iterator
from typing import IO

__all__ = ["Repeats", "log_lines"]

CHUNK = 65536
WINDOW_S = 1.0
MOST_REPEATS = 10
"""Lines that say the same, numbers aside, which pass within a second."""
MOST_LINES = 1000
"""Lines of all kinds that pass within a second."""
LONGEST = 16384
"""Characters of a line that pass."""
NOISE = b"NODELAY NOT SUPPORTED"
"""What Triton's web server says of each connection to a socket in the file system, which has no use for that option."""
_NUMBER = re.compile(r"[0-9]+")
_SHOWN = 200


class Repeats:
    """Holds back lines that come too often, and says once a second how many those were.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._seen: collections.Counter[str] = collections.Counter()
        self._held: dict[str, tuple[str, int]] = {}
        self._passed = self._dropped = 0

    @property
    def is_holding(self) -> bool:
        """Whether something is to be told as soon as the second is over."""
        return bool(self._held or self._dropped)

    def take(self, line: str) -> list[str]:
        """What is to be passed on now that this line came."""
        told = self.due()
        key = _NUMBER.sub("0", line)
        self._seen[key] += 1
        if self._seen[key] > MOST_REPEATS:
            self._held[key] = line, self._held.get(key, ("", 0))[1] + 1
        elif self._passed >= MOST_LINES:
            self._dropped += 1
        else:
            self._passed += 1
            told.append(line if len(line) <= LONGEST else line[:LONGEST] + " ...")
        return told

    def due(self, *, now: bool = False) -> list[str]:
        """What is to be told of lines that were held back, at the end of a second or `now`."""
        time_s = self._clock()
        if time_s - self._since < WINDOW_S and not now:
            return []
        told = [f"... repeated {count} times: {line[:_SHOWN]}" for line, count in self._held.values()]
        if self._dropped:
            told.append(f"... and {self._dropped} other lines")
        self._since = time_s
        self._seen.clear()
        self._held.clear()
        self._passed = self._dropped = 0
        return told


def log_lines(stream: IO[bytes]) -> Iterator[str]:
    """The lines of a log until nobody can write any more, those aside that `Repeats` holds back; closes the stream."""
    repeats = Repeats()
    buffer = b""
    with stream:
        while True:
            if repeats.is_holding and not select.select([stream], [], [], WINDOW_S)[0]:
                yield from repeats.due()
                continue
            chunk = stream.read(CHUNK)
            if not chunk:
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            if len(buffer) > CHUNK:
                lines.append(buffer)
                buffer = b""
            for line in lines:
                if NOISE in line:
                    continue
                yield from repeats.take(line.decode(errors="replace").rstrip())
    if buffer:
        yield from repeats.take(buffer.decode(errors="replace").rstrip())
    yield from repeats.due(now=True)
