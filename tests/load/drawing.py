"""Line charts as SVG, drawn here: a report is one file that opens from disk and asks no network for anything."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 860, 210
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 26, 30
_TIMES_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
COLOURS = ("#2563eb", "#d97706", "#dc2626", "#059669", "#7c3aed", "#64748b")

Points = Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Series:
    """One line; a point without a value interrupts it."""

    name: str
    points: Points
    colour: str
    is_dashed: bool = False
    has_marks: bool = False


@dataclass(frozen=True)
class Axis:
    """One direction."""

    low: float
    high: float
    is_log: bool = False
    is_time: bool = False
    count: int = 4
    """Ticks, about."""

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        if self.is_log:
            low, high = math.log10(self.low), math.log10(self.high)
            return (math.log10(max(value, self.low)) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values within, few enough to read."""
        if self.is_log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            factors = (1, 2, 5) if last - first <= 3 else (1,)
            values = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
            return [value for value in values if self.low <= value <= self.high]
        step = nice((self.high - self.low) / self.count)
        if self.is_time:
            step = next((round_s for round_s in _TIMES_S if round_s >= (self.high - self.low) / self.count), step)
        first_tick = math.ceil(self.low / step - 1e-9)
        return [step * n for n in range(first_tick, math.floor(self.high / step + 1e-9) + 1)]


def nice(step: float) -> float:
    """The next larger of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    *,
    x_title: str = "",
    is_log: bool = False,
    is_time: bool = True,
    limit: float | None = None,
    spans: Sequence[tuple[float, float, str]] = (),
    x_range: tuple[float, float] | None = None,
) -> str:
    """An SVG element, with its values for the page's script; a sentence where there is nothing to draw.

    `limit` is drawn as a dashed line; `spans` (begin, end, name) are shaded in turns and named below.
    """
    values = [value for line in series for _, value in line.points if value is not None]
    xs = [x for line in series for x, value in line.points if value is not None]
    if not values:
        return f'<figure><figcaption>{html.escape(title)}</figcaption><p class="none">nothing measured</p></figure>'
    low, high = x_range or (min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1)
    x_axis = Axis(low, high, is_time=is_time, count=9)
    y_axis = _value_axis([*values, *([limit] if limit is not None else [])], is_log=is_log)

    def x_at(x: float) -> float:
        return LEFT + x_axis.share(x) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - y_axis.share(y) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for number, (begin, end, name) in enumerate(spans):
        left, right = x_at(max(begin, x_axis.low)), x_at(min(end, x_axis.high))
        if right <= left:
            continue
        shade = ' class="odd"' if number % 2 else ' class="even"'
        parts.append(
            f'<rect{shade} x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}">'
            f"<title>{html.escape(name)}</title></rect>"
        )
        if right - left > 7 * len(name):
            parts.append(f'<text class="span" x="{(left + right) / 2:.1f}" y="{TOP + 11}">{html.escape(name)}</text>')
    for tick in y_axis.ticks():
        y = y_at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="y" x="{LEFT - 7}" y="{y + 4:.1f}">{number_text(tick)}</text>')
    for tick in x_axis.ticks():
        label = time_text(tick) if is_time else number_text(tick)
        parts.append(f'<text class="x" x="{x_at(tick):.1f}" y="{HEIGHT - BOTTOM + 16}">{label}</text>')
    if limit is not None:
        y = y_at(limit)
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="limit" x="{LEFT + 4}" y="{y - 4:.1f}">goal {number_text(limit)}</text>')
    for line in series:
        parts += _line([(x_at(x), None if y is None else y_at(y)) for x, y in line.points], line)
    legend = "".join(
        f'<span><i style="background:{line.colour}"></i>{html.escape(line.name)}</span>'
        for line in series
        if len(series) > 1
    )
    data = {
        "x": [x_axis.low, x_axis.high],
        "time": is_time,
        "unit": unit,
        "series": [[line.name, line.colour, [p for p in line.points if p[1] is not None]] for line in series],
    }
    x_label = (
        f'<text class="title" x="{WIDTH - RIGHT}" y="{HEIGHT - 2}">{html.escape(x_title)}</text>' if x_title else ""
    )
    return (
        f"<figure><figcaption>{html.escape(title)} <small>{html.escape(unit)}</small>{legend}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}" '
        f"data-chart='{html.escape(json.dumps(data), quote=True)}'>{''.join(parts)}{x_label}</svg></figure>"
    )


def _value_axis(values: Sequence[float], *, is_log: bool) -> Axis:
    if is_log:
        low, high = max(min(values), 1e-3), max(*values, 1e-3)
        low, high = low / 1.3, max(high * 1.3, low * 4)
        return Axis(low, high, is_log=True)
    top = max(values)
    return Axis(0.0, top * 1.15 if top > 0 else 1.0)


def _line(points: Sequence[tuple[float, float | None]], line: Series) -> list[str]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append((x, y))
    dash = ' stroke-dasharray="5 4"' if line.is_dashed else ""
    drawn = []
    for piece in pieces:
        if len(piece) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
            drawn.append(f'<polyline points="{path}" stroke="{line.colour}"{dash}/>')
        if piece and (len(piece) == 1 or line.has_marks):
            drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in piece]
    return drawn


def number_text(value: float) -> str:
    """A number, short."""
    if value >= 10_000:
        return f"{value / 1000:.3g}k"
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def time_text(seconds: float) -> str:
    """Seconds, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
