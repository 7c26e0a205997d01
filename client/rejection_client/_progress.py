"""How far a run is, on standard error: a bar on a terminal, else a line now and then."""

import sys
import time
from typing import Literal, Self

BAR_AFTER_S = 2.0
BAR_EVERY_S = 0.5
LINE_EVERY_S = 10.0
BAR_COLUMNS = 24


class Progress:
    """A count and a rate, with the share where the end is known, for runs that last; silent without a `form`."""

    def __init__(self, form: Literal["bar", "lines"] | None, total: int | None = None) -> None:
        self._form = form
        self._total = total
        self._start_s = time.monotonic()
        self._next_s = self._start_s + (BAR_AFTER_S if form == "bar" else LINE_EVERY_S)
        self._drawn = False
        self.done = 0

    def add(self, position: int = 0) -> None:
        """Count one more text as done, which brings the run to `position` of its `total`."""
        self.done += 1
        now_s = time.monotonic()
        if self._form is None or now_s < self._next_s:
            return
        told = f"{self.done:,} texts, {self.done / (now_s - self._start_s):,.0f} texts/s"
        share = min(1.0, position / self._total) if self._total else None
        if self._form == "bar":
            self._next_s = now_s + BAR_EVERY_S
            full = 0 if share is None else round(share * BAR_COLUMNS)
            bar = "" if share is None else f"[{'#' * full}{'.' * (BAR_COLUMNS - full)}] {share:4.0%}  "
            sys.stderr.write(f"\r{bar}{told}\x1b[K")
            self._drawn = True
        else:
            self._next_s = now_s + LINE_EVERY_S
            sys.stderr.write(f"rejection: {told}{'' if share is None else f', {share:.0%} of the input'}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the bar off the terminal."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def __enter__(self) -> Self:
        """Give the progress itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar off the terminal."""
        self.clear()
