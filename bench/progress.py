"""What a run says while it goes on: a line for each figure, with the time that is left."""

import sys
import time
from typing import TextIO


class Progress:
    """Lines on standard error; the time left is what was planned, corrected by how the plan has held so far."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._begin = self._step_begin = time.monotonic()
        self._planned_s = self._done_s = self._taken_s = self._step_s = 0.0

    def plan(self, seconds: float) -> None:
        """Say how long everything is going to take."""
        self._planned_s = seconds
        self.say(f"about {duration(seconds)} of measuring")

    def begin(self, planned_s: float) -> None:
        """A step begins that was planned to take so long."""
        self._step_s, self._step_begin = planned_s, time.monotonic()

    def end(self) -> None:
        """The step is over."""
        self._done_s += self._step_s
        self._taken_s += time.monotonic() - self._step_begin
        self._step_s = 0.0

    def left_s(self) -> float:
        """Seconds that are left."""
        pace = self._taken_s / self._done_s if self._done_s else 1.0
        running_s = max(0.0, self._step_s * pace - (time.monotonic() - self._step_begin)) if self._step_s else 0.0
        return (self._planned_s - self._done_s - self._step_s) * pace + running_s

    def say(self, line: str) -> None:
        """Print a line with the time so far and the time left."""
        left = f", {duration(self.left_s())} left" if self._planned_s else ""
        self._stream.write(f"[{duration(time.monotonic() - self._begin)}{left}] {line}\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """As minutes and seconds."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"
