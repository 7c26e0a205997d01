"""The plots of a result, as SVG drawn by matplotlib."""

import io
import re
from collections.abc import Callable, Mapping

import matplotlib as mpl

mpl.use("svg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from bench.summary import OURS, RAW, Result, Row, limit, median, of, pairs, rows, systems, title

COLOURS = ("#0f6fb8", "#c2410c", "#4d7c0f", "#7e22ce", "#b91c1c", "#0e7490", "#a16207", "#be185d", "#475569")
GREY = "#64748b"
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, and readable by search and screen readers
    "svg.hashsalt": "bench",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
PARTS = (
    ("network and caller", "network_and_client_ms", "#94a3b8"),
    ("ensemble", "ensemble_hop_ms", "#0e7490"),
    ("tokenizer: queue and hop", "tokenizer_hop_ms", "#fdba74"),
    ("tokenizer: tokenizing", "tokenizer_infer_ms", "#c2410c"),
    ("classifier: queue and hop", "classifier_hop_ms", "#93c5fd"),
    ("classifier: onnxruntime", "classifier_infer_ms", "#0f6fb8"),
)


def plots(result: Result) -> dict[str, str]:
    """SVG by file name without its ending; only those that have figures."""
    drawn: dict[str, str] = {}
    found = rows(result)
    with mpl.rc_context(STYLE):
        for model, precision in pairs(result):
            for workload in result["workloads"]:
                chosen = of(found, model=model, precision=precision, workload=workload, loop="closed")
                if chosen:
                    name = f"concurrency-{workload}-{model}-{precision}"
                    drawn[name] = _by_concurrency(result, found, chosen, model, precision, workload)
            chosen = of(found, model=model, precision=precision, loop="open")
            if chosen:
                drawn[f"offered-{model}-{precision}"] = _by_offered(result, chosen, model, precision)
        if result["overhead"]:
            drawn["time-of-a-request"] = _parts(result)
        for entry in result["scenarios"].get("soak", []):
            drawn[f"soak-{entry['model']}-{entry['precision']}"] = _soak(entry)
        for entry in result["scenarios"].get("growth", []):
            drawn[f"growth-{entry['model']}-{entry['precision']}"] = _growth(entry)
    return drawn


def colour_of(result: Result, system: str) -> str:
    """One colour a system, the same in all plots."""
    if system == RAW:
        return GREY
    others = [name for name in result["systems"] if name not in (RAW, OURS)]
    return COLOURS[0] if system == OURS else COLOURS[1 + others.index(system) % (len(COLOURS) - 1)]


def _by_concurrency(
    result: Result, found: list[Row], chosen: list[Row], model: str, precision: str, workload: str
) -> str:
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    best = limit(found, model, precision, workload)
    cap = median(best, "texts_per_s")
    if cap:
        axes[0].axhline(cap, color=GREY, linestyle="--", label=title(result, RAW))
    kinds: tuple[tuple[Axes, Callable[[Row], float | None], str], ...] = (
        (axes[0], lambda row: median(row, "texts_per_s"), "texts per second"),
        (axes[1], lambda row: median(row, "latency_ms", "p50"), "p50, ms"),
        (axes[2], lambda row: median(row, "latency_ms", "p99"), "p99, ms"),
    )
    for axis, value, label in kinds:
        for system in systems(result):
            line = sorted((row["concurrency"], value(row) or 0.0) for row in of(chosen, system=system))
            if line:
                _line(axis, line, colour_of(result, system), title(result, system), thick=system == OURS)
        _callers_axis(axis, sorted({row["concurrency"] for row in chosen}))
        axis.set_title(label, loc="left", fontsize=10)
        if axis is axes[0]:
            axis.set_ylim(bottom=0)
        else:
            _log_scale(axis)
    return _finished(figure, axes[0], f"{result['workloads'][workload]['title']}: {model}, {precision}")


def _by_offered(result: Result, chosen: list[Row], model: str, precision: str) -> str:
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, share in zip(axes, ("p50", "p99"), strict=True):
        for system in systems(result):
            line = sorted(
                (median(row, "offered_texts_per_s") or 0.0, median(row, "latency_ms", share) or 0.0)
                for row in of(chosen, system=system)
            )
            if line:
                _line(axis, line, colour_of(result, system), title(result, system), thick=system == OURS)
        _log_scale(axis)
        axis.set_xlim(left=0)
        axis.set_xlabel("offered texts per second, constant rate")
        axis.set_title(f"{share}, ms, from when a request was due", loc="left", fontsize=10)
    return _finished(figure, axes[0], f"Latency against offered load, mixed lengths: {model}, {precision}")


def _parts(result: Result) -> str:
    """A bar for each model, precision and workload: medians of single requests."""
    groups: dict[str, list[Row]] = {}
    for entry in result["overhead"]:
        groups.setdefault(f"{entry['model']}, {entry['precision']}\n{entry['workload']}", []).append(entry)
    figure = Figure(figsize=(11, 1.4 + 0.5 * len(groups)), layout="constrained")
    axis = figure.subplots()
    for position, entries in enumerate(groups.values()):
        left = 0.0
        for label, key, colour in PARTS:
            values = sorted(entry.get(key, 0.0) for entry in entries)
            width = max(0.0, values[len(values) // 2])
            axis.barh(position, width, left=left, color=colour, label=None if position else label, height=0.6)
            left += width
        values = sorted(entry["raw_ms"] for entry in entries)
        axis.plot([values[len(values) // 2]] * 2, [position - 0.4, position + 0.4], color="black", linewidth=1.2)
    axis.plot([], [], color="black", linewidth=1.2, label="the same text, onnxruntime in process")
    axis.set_yticks(range(len(groups)), list(groups))
    axis.invert_yaxis()
    axis.set_xlabel("milliseconds, one request at a time")
    return _finished(figure, axis, "Where a request's time goes")


def _soak(entry: Mapping[str, object]) -> str:
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    samples: list[tuple[float, float]] = entry["memory_mb_by_s"]  # type: ignore[assignment]
    axis.plot([seconds / 60 for seconds, _ in samples], [memory for _, memory in samples], color=COLOURS[0])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("minutes at full load")
    axis.set_title("memory of the server, MB", loc="left", fontsize=10)
    return _finished(figure, None, f"Memory over time: {entry['model']}, {entry['precision']}")


def _growth(entry: Mapping[str, list[Row]]) -> str:
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, kind, name, label in (
        (axes[0], "callers", "concurrency", "callers"),
        (axes[1], "lengths", "tokens", "tokens a text"),
    ):
        _line(axis, [(row[name], row["cpu_us_per_token"]) for row in entry[kind]], COLOURS[0], "", thick=True)
        _callers_axis(axis, [row[name] for row in entry[kind]], label)
        axis.set_ylim(bottom=0)
        axis.set_title("CPU of the server for each token, microseconds", loc="left", fontsize=10)
    return _finished(figure, None, f"Growth: {entry['model']}, {entry['precision']}")


def _line(axis: Axes, line: list[tuple[float, float]], colour: str, label: str, *, thick: bool) -> None:
    across, up = zip(*line, strict=True)
    axis.plot(
        across,
        up,
        color=colour,
        label=label,
        marker="o",
        markersize=4,
        linewidth=2.4 if thick else 1.3,
        zorder=3 if thick else 2,
    )


def _log_scale(axis: Axes) -> None:
    axis.set_yscale("log")
    # Plain numbers, also between powers of ten where the axis spans few of them.
    for choose in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        choose(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


def _callers_axis(axis: Axes, values: list[int], label: str = "callers") -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(values, [str(value) for value in values])
    axis.minorticks_off()
    axis.set_xlabel(label)


def _finished(figure: Figure, legend: Axes | None, heading: str) -> str:
    figure.suptitle(heading, x=0.01, ha="left", fontsize=11, fontweight="bold")
    handles, labels = legend.get_legend_handles_labels() if legend else ([], [])
    if handles:
        figure.legend(handles, labels, loc="outside lower left", ncols=4, fontsize=9)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": heading})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def inline(svg: str, prefix: str) -> str:
    """The drawing for a page that holds several: ids are unique, and it is as wide as the page lets it be."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"|<svg ', r"<svg \1", svg, count=1)
