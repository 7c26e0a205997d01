"""The plots of a result: what `load.charts` is to draw."""

from bench.figures import Row
from bench.plan import OURS, RAW
from bench.summary import Result, limit, median, of, pairs, rows, systems, title
from bench.table import SINGLE, singles
from load.charts import COLOURS, GREY, Bars, Panel, Series, draw


def plots(result: Result) -> dict[str, str]:
    """SVG by file name without its ending; only those that have figures."""
    drawn: dict[str, str] = {}
    found = rows(result)
    for model, precision in pairs(result):
        for workload, entry in result["workloads"].items():
            chosen = of(found, model=model, precision=precision, workload=workload, loop="closed")
            if chosen:
                cap = median(limit(found, model, precision, workload), "texts_per_s")
                panels = [
                    _by_callers("texts per second", result, chosen, ("texts_per_s",), cap),
                    *(_by_callers(f"{share}, ms", result, chosen, ("latency_ms", share)) for share in ("p50", "p99")),
                ]
                name, heading = f"concurrency-{workload}-{model}-{precision}", f"{entry['title']}: {model}, {precision}"
                drawn[name] = draw(panels, title=heading)
        chosen = of(found, model=model, precision=precision, loop="open")
        if chosen:
            panels = [_by_offered(result, chosen, share) for share in ("p50", "p99")]
            heading = f"Latency against offered load, mixed lengths: {model}, {precision}"
            drawn[f"offered-{model}-{precision}"] = draw(panels, title=heading)
    if lines := singles(result):
        drawn["time-of-a-request"] = draw([_parts(lines)], height=1.6 + 0.4 * len(lines))
    for entry in result["scenarios"].get("soak", []):
        points = [(seconds / 60, memory) for seconds, memory in entry["memory_mb_by_s"]]
        panel = Panel("memory of the server, MB", [Series("", points, COLOURS[0])], x_title="minutes at full load")
        drawn[f"soak-{entry['model']}-{entry['precision']}"] = draw([panel], title="Memory over time", width=7)
    for entry in result["scenarios"].get("growth", []):
        panels = [
            _growth(entry["callers"], "concurrency", "callers"),
            _growth(entry["lengths"], "tokens", "tokens a text"),
        ]
        heading = f"CPU of the server for each token, microseconds: {entry['model']}, {entry['precision']}"
        drawn[f"growth-{entry['model']}-{entry['precision']}"] = draw(panels, title=heading)
    return drawn


def _by_callers(
    heading: str, result: Result, chosen: list[Row], figure: tuple[str, ...], cap: float | None = None
) -> Panel:
    ticks = sorted({row["concurrency"] for row in chosen})
    limits = [Series(title(result, RAW), [(tick, cap) for tick in ticks], GREY, is_dashed=True)] if cap else []
    return Panel(
        heading,
        [*limits, *_series(result, chosen, ("concurrency",), figure)],
        x_title="callers",
        x_scale="log2",
        y_scale="linear" if figure == ("texts_per_s",) else "log",
        x_ticks=ticks,
    )


def _by_offered(result: Result, chosen: list[Row], share: str) -> Panel:
    series = _series(result, chosen, ("offered_texts_per_s",), ("latency_ms", share))
    heading = f"{share}, ms, from when a request was due"
    return Panel(heading, series, x_title="offered texts per second, constant rate", y_scale="log")


def _series(result: Result, chosen: list[Row], across: tuple[str, ...], up: tuple[str, ...]) -> list[Series]:
    """A line for each system, in one colour in all plots."""
    found, others = [], [name for name in result["systems"] if name not in (RAW, OURS)]
    for system in systems(result):
        if points := [(median(row, *across) or 0.0, median(row, *up)) for row in of(chosen, system=system)]:
            colour = COLOURS[0] if system == OURS else COLOURS[1 + others.index(system) % (len(COLOURS) - 1)]
            name = title(result, system)
            found.append(Series(name, sorted(points), colour, has_marks=True, is_thick=system == OURS))
    return found


def _parts(lines: list[tuple[str | float, ...]]) -> Bars:
    """A bar for each model, precision and workload."""
    columns = {name: [max(0.0, float(line[3 + place])) for line in lines] for place, (name, _) in enumerate(SINGLE)}
    parts = [name for name, _ in SINGLE[1:7]]
    return Bars(
        "Where the time of a single request goes",
        [f"{line[0]}, {line[1]}, {line[2]}" for line in lines],
        [(name, colour, columns[name]) for name, colour in zip(parts, COLOURS, strict=False)],
        x_title="milliseconds, mean, one request at a time",
        marks=("in process", columns["in process"]),
    )


def _growth(entries: list[Row], name: str, label: str) -> Panel:
    points = [(row[name], row["cpu_us_per_token"]) for row in entries]
    series = [Series("", points, COLOURS[0], has_marks=True)]
    return Panel("", series, x_title=label, x_scale="log2", x_ticks=[across for across, _ in points])
