"""Charts as SVG text, the one way of drawing them here: for the load report and the benchmark's pages.

The same figures give the same bytes. Text stays text, ink follows the colour scheme of whoever looks (light or dark),
and nothing is fetched, so that a chart stands in a page or in a file of its own. See `draw`.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, MultipleLocator

COLOURS = ("#2563eb", "#d97706", "#dc2626", "#059669", "#7c3aed", "#64748b", "#0891b2", "#db2777", "#65a30d")
BLUE, AMBER, RED, GREEN, VIOLET, GREY = COLOURS[:6]
INK = "#010203"
"""Stands for the reader's text colour until the drawing is finished."""
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "path.simplify_threshold": 0.5,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "grid.color": INK,
}
SCHEME = (
    "<style>svg{color:#1e293b;font-family:system-ui,sans-serif}"
    "@media(prefers-color-scheme:dark){svg{color:#e2e8f0}}</style>"
)
POINTS_PER_INCH = 72
TIMES_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
Scale = Literal["linear", "log", "log2", "time"]
"""`time`: seconds, told as minutes:seconds; for the x axis."""


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    """In the legend; empty for none."""
    points: Sequence[tuple[float, float | None]]
    """(x, y); a y of None interrupts the line."""
    colour: str
    is_dashed: bool = False
    has_marks: bool = False
    is_thick: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines in one pair of axes; says so where there is nothing to draw."""

    title: str
    series: Sequence[Series]
    x_title: str = ""
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    """Linear ones begin at 0."""
    x_ticks: Sequence[float] = ()
    """Where the x axis is labelled; empty to have it chosen."""
    x_range: tuple[float, float] | None = None
    limit: float | None = None
    """A y drawn as a dashed line."""
    limit_name: str = "goal"
    spans: Sequence[tuple[float, float, str]] = ()
    """(begin, end, name): shaded in turns, and named where there is room."""

    def draw(self, axes: Axes) -> None:
        """Into axes that are empty."""
        axes.set_title(self.title, loc="left", fontsize=10)
        axes.set_xlabel(self.x_title)
        if all(y is None for line in self.series for _, y in line.points):
            axes.text(0.5, 0.5, "nothing measured", transform=axes.transAxes, ha="center")
            axes.set_xticks([])
            axes.set_yticks([])
            return
        for line in self.series:
            axes.plot(
                [x for x, _ in line.points],
                [float("nan") if y is None else y for _, y in line.points],
                color=line.colour,
                label=line.name or "_",
                linestyle="--" if line.is_dashed else "-",
                linewidth=2.4 if line.is_thick else 1.4,
                marker="o" if line.has_marks else "",
                markersize=4,
                zorder=3 if line.is_thick else 2,
            )
        if self.limit is not None:
            axes.axhline(self.limit, color=RED, linestyle="--", linewidth=1, zorder=1)
            place = (0.005, self.limit)
            axes.annotate(f"{self.limit_name} {self.limit:.4g}", place, (0, 3), axes.get_yaxis_transform(),
                          textcoords="offset points", color=RED, fontsize=9)  # fmt: skip
        self._scale(axes)
        self._shade(axes)

    def _scale(self, axes: Axes) -> None:
        if self.y_scale == "linear":
            values = [y for line in self.series for _, y in line.points if y is not None]
            axes.set_ylim(0, 1.12 * max(*values, self.limit or 0.0) or 1.0)
        else:
            axes.set_yscale("log")
            _plain_numbers(axes.yaxis)
        if self.x_scale in ("log", "log2"):
            axes.set_xscale("log", base=2 if self.x_scale == "log2" else 10)
            _plain_numbers(axes.xaxis)
        if self.x_range is not None:
            axes.set_xlim(*self.x_range)
        if self.x_scale == "time":
            low, high = axes.get_xlim()
            fitting = (step for step in TIMES_S if step >= (high - low) / 10)
            axes.xaxis.set_major_locator(MultipleLocator(next(fitting, (high - low) / 10)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
        if self.x_ticks:
            axes.set_xticks(self.x_ticks, [f"{tick:g}" for tick in self.x_ticks])
            axes.xaxis.minorticks_off()

    def _shade(self, axes: Axes) -> None:
        low, high = axes.get_xlim()
        figure = axes.get_figure(root=True)
        assert figure is not None
        width = figure.get_size_inches()[0] * POINTS_PER_INCH / len(figure.axes)
        for number, (begin, end, name) in enumerate(self.spans):
            begin, end = max(begin, low), min(end, high)
            if end <= begin:
                continue
            if number % 2:
                axes.axvspan(begin, end, color=INK, alpha=0.06, linewidth=0)
            if (end - begin) / (high - low) * width > 6 * len(name):
                axes.annotate(name, ((begin + end) / 2, 1), (0, -9), axes.get_xaxis_transform(),
                              textcoords="offset points", ha="center", fontsize=9, alpha=0.7)  # fmt: skip


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, each made of the same parts."""

    title: str
    groups: Sequence[str]
    """A bar each, from above."""
    parts: Sequence[tuple[str, str, Sequence[float]]]
    """(name, colour, a length for each group)."""
    x_title: str = ""
    marks: tuple[str, Sequence[float]] | None = None
    """(name, a value for each group): a black stroke across the bar."""

    def draw(self, axes: Axes) -> None:
        """Into axes that are empty."""
        axes.set_title(self.title, loc="left", fontsize=10)
        axes.set_xlabel(self.x_title)
        lefts = [0.0] * len(self.groups)
        for name, colour, lengths in self.parts:
            axes.barh(range(len(self.groups)), lengths, left=lefts, color=colour, label=name, height=0.6)
            lefts = [left + length for left, length in zip(lefts, lengths, strict=True)]
        if self.marks is not None:
            name, values = self.marks
            places = range(len(self.groups))
            low, high = [place - 0.4 for place in places], [place + 0.4 for place in places]
            axes.vlines(values, low, high, color=INK, linewidth=1.4, label=name)
        axes.set_yticks(range(len(self.groups)), list(self.groups))
        axes.invert_yaxis()


def draw(panels: Sequence[Panel | Bars], *, title: str = "", width: float = 11.0, height: float = 2.9) -> str:
    """One SVG element with the panels side by side, under a common title and above a common legend.

    Args:
        panels: what is drawn, from left to right.
        title: of the whole; empty for none.
        width: of the whole in inches, which sets how large text is beside it: the element itself is as wide as the page
            lets it be.
        height: in inches.

    """
    name = title or " ".join(panel.title for panel in panels)
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            panel.draw(axes)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
        pairs = itertools.chain.from_iterable(zip(*pair, strict=True) for pair in drawn)
        legend = {label: handle for handle, label in pairs}
        if len(legend) > 1:
            figure.legend(list(legend.values()), list(legend), loc="outside lower left", ncols=6, fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": name})
    return _compact(buffer.getvalue())


def _plain_numbers(axis: Axis) -> None:
    """Of a logarithmic axis, also between powers of ten where it spans few of them."""
    for choose in (axis.set_major_formatter, axis.set_minor_formatter):
        choose(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _compact(svg: str) -> str:
    """Fewer digits and lines, no ids that nothing refers to (several drawings share a page), and the reader's ink."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if f"#{found[1]}" in svg else "", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"| font-family: [^;"]*;', "", svg)
    head, _, rest = svg.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    rest = re.sub(r'(?<= d=")[^"]+', lambda path: re.sub(r"(\.\d)\d+", r"\1", " ".join(path[0].split())), rest)
    return f"{head}>{SCHEME}{rest}"
