"""What the terminal shows while a run goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from load.compare import Change
from load.record import total
from load.wording import ms

if TYPE_CHECKING:  # importing it patches the standard library
    from load.controller import Stage

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


def verdict_lines(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """One a line."""
    return [f"  {'met    ' if v['is_met'] else 'NOT MET'}  {v['wanted']}: {v['measured']}" for v in verdicts]


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


def summary_lines(found: Mapping[str, Any]) -> list[str]:
    """What `result.json` holds, in a few lines: the knee, the figures, failures, verdicts, notes."""
    figures, generator = found["figures"], found["generator"]
    knee, check = found["knee"] or {}, found["check"] or {}
    lines = []
    if knee.get("rate"):
        more = "the generator could send no more" if knee["is_generator_limit"] else "the next tried failed"
        upper = f", {more} at {knee['upper']:.1f}/s" if knee["upper"] else ""
        lines.append(f"highest sustained rate: {knee['rate']:.1f} requests/s{upper}")
    if knee.get("rate") and check.get("rate"):
        off = 100 * (check["rate"] / knee["rate"] - 1)
        lines.append(f"by the other generator: {check['rate']:.1f} requests/s ({off:+.1f}%)")
    lines.append(
        f"'{found['main']['stage']}': {figures['sent']:.0f} sent, {figures['rate']:.1f} answers/s, "
        f"p50 {ms(figures['p50'])}, p90 {ms(figures['p90'])}, p99 {ms(figures['p99'])}, "
        f"p99.9 {ms(figures['p99.9'])}, failed {figures['failures'] or 0:.2g}%"
        + "".join(f" {code} {count}" for code, count in sorted(found["failures"].items()))
    )
    lines.append(
        f"generator: {generator['processes']} processes, {generator['connections']} connections, "
        f"{generator['cpu_ms_per_request'] or 0:.2f} ms of CPU a request, 99% left within "
        f"{ms(generator['late_p99_ms'])} of their time"
    )
    for stage in found["stages"]:
        for code, message in sorted(stage["messages"].items()):
            lines.append(f"'{stage['name']}': {stage['failures'].get(code, 0)} {code}, the first: {message[:200]}")
    return [*lines, *verdict_lines(found["verdicts"]), *(f"note: {note}" for note in found["notes"])]
