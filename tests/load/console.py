"""What the terminal shows while a run goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from load.compare import Change
from load.controller import Stage
from load.goals import Verdict
from load.record import total

LINE_S = 10.0
"""Between two lines where standard error is no terminal."""
RECENT_S = 5


class Console:
    """One line that changes, on a terminal; a line now and then elsewhere."""

    def __init__(self) -> None:
        self._is_live = sys.stderr.isatty()
        self._said_s = time.monotonic()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def progress(self, stage: Stage, passed_s: float, under_way: int) -> None:
        """The state of a stage."""
        if not self._is_live and time.monotonic() - self._said_s < LINE_S:
            return
        self._said_s = time.monotonic()
        recent = total(
            cell
            for (second, _), cell in stage.recorder.cells.items()
            if passed_s - 1 - RECENT_S <= second < passed_s - 1
        )
        seconds = max(1.0, min(RECENT_S, passed_s - 1))
        failed = sum(recent.failures.values())
        line = (
            f"{stage.name}  {min(max(0.0, passed_s), stage.duration_s):.0f} of {stage.duration_s:.0f} s  "
            f"sent {recent.sent / seconds:.0f}/s  answered {recent.answered / seconds:.0f}/s  "
            f"p50 {ms(recent.ok.percentile(50))}  p99 {ms(recent.ok.percentile(99))}  failed {failed}  "
            f"under way {under_way}"
        )
        if self._is_live:
            self._clear()
            print(line[:200], end="", file=sys.stderr, flush=True)  # noqa: T201
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    def _clear(self) -> None:
        if self._is_live:
            print("\r\x1b[K", end="", file=sys.stderr)  # noqa: T201


def ms(value: float | None) -> str:
    """A latency as a person reads it."""
    if value is None:
        return "-"
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """One a line."""
    return [f"  {'met    ' if v.is_met else 'NOT MET'}  {v.wanted}: {v.measured}" for v in verdicts]


def change_lines(changes: Sequence[Change]) -> list[str]:
    """One a line."""
    lines = [f"  {'':<10}{'before':>10}{'now':>10}  {'change':>8}  noise"]
    for change in changes:
        percent = "" if change.percent is None else f"{change.percent:+.1f}%"
        noise = "" if not change.before else f"±{100 * change.noise / change.before:.1f}%"
        lines.append(
            f"  {change.figure:<10}{change.before:>10.4g}{change.after:>10.4g}  {percent:>8}  {noise:<7} {change.word}"
        )
    return lines
