"""What the terminal shows while a run goes on, and at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from load.compare import Change
from load.tables import Marked, Table, ms, percent

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
        self._write(f"{text}\n")

    def progress(self, stage: Stage, passed_s: float) -> None:
        """The state of a stage."""
        if not self._is_live and time.monotonic() - self._said_s < LINE_S:
            return
        self._said_s = time.monotonic()
        # Of whole seconds that are reported already.
        end_s = passed_s - 1
        seconds = max(1.0, min(RECENT_S, end_s))
        recent = stage.requests.answered(end_s - RECENT_S, end_s)
        line = (
            f"{stage.name}  {min(max(0.0, passed_s), stage.duration_s):.0f} of {stage.duration_s:.0f} s  "
            f"answered {recent.count / seconds:.0f}/s  p50 {ms(recent.latency(50))}  p99 {ms(recent.latency(99))}  "
            f"failed {stage.requests.between(end_s - RECENT_S, end_s).failures.total()}  "
            f"under way {sum(stage.under_way.values())}"
        )
        self._write(line[:200] if self._is_live else f"{line}\n")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}" if self._is_live else text)
        sys.stderr.flush()


def change_table(changes: Sequence[Mapping[str, Any]]) -> Table:
    """A row a figure, of what `compare.changes` found."""
    kinds: dict[str, Literal["good", "bad"]] = {"better": "good", "worse": "bad"}
    rows = [
        (
            change.figure,
            f"{change.before:.4g} {change.unit}",
            f"{change.after:.4g} {change.unit}",
            percent(change.percent, "+.1f"),
            f"±{change.noise:.3g} {change.unit}",
            Marked(change.word, kinds[change.word]) if change.word in kinds else change.word,
        )
        for change in (Change(**row) for row in changes)
    ]
    return Table(["", "before", "now", "change", "noise (95%)", ""], rows, words=(0, 5))


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
        f"'{found['main']['stage']}': {figures['sent']} sent, {figures['rate']:.1f} answers/s, "
        + "".join(f"{name} {ms(figures[name])}, " for name in ("p50", "p90", "p99", "p99.9"))
        + f"failed {percent(figures['failures'] or 0)}"
        + "".join(f" {code} {count}" for code, count in sorted(found["failures"].items()))
    )
    lines.append(generator_line(generator))
    for stage in found["stages"]:
        for code, message in sorted(stage["messages"].items()):
            lines.append(f"'{stage['name']}': {stage['failures'].get(code, 0)} {code}, the first: {message[:200]}")
    lines += [f"  {'met    ' if v['is_met'] else 'NOT MET'}  {v['wanted']}: {v['measured']}" for v in found["verdicts"]]
    return [*lines, *(f"note: {note}" for note in found["notes"])]


def generator_line(generator: Mapping[str, Any]) -> str:
    """How the load was sent."""
    return (
        f"generator: {generator['processes']} processes, {generator['connections']} connections, "
        f"{generator['cpu_ms_per_request'] or 0:.2f} ms of CPU a request, at most "
        f"{100 * generator['cpu_share_highest']:.0f}% of a core, 99% left within "
        f"{ms(generator['late_p99_ms'])} of their time"
    )
