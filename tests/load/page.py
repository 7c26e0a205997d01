"""The report for a person: what report.html, a template, needs of what result.json holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from load.charts import AMBER, BLUE, COLOURS, GREEN, GREY, RED, VIOLET, Panel, Series, draw
from load.console import change_table, generator_line
from load.histogram import Histogram
from load.tables import Marked, Table, ms, percent

Found = Mapping[str, Any]
SERVER = (
    (("queue_ms", "Wait in the server's queues, ms a request", AMBER), ("waiting", "Requests waiting", AMBER)),
    (("batch_size", "Texts an execution", BLUE), ("executions_per_s", "Executions a second", BLUE)),
    (("failed_per_s", "Failed a second, by its count", RED), ("cache_hits_per_s", "Cache hits a second", GREEN)),
    (("cpu_cores", "CPU of the server, cores", VIOLET), ("memory_mib", "Memory of the server, MiB", VIOLET)),
)


def page(found: Found) -> str:
    """The whole page, one file that asks nothing of the network."""
    template = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("report.html")
    tables = {name: Markup(table.html()) for name, table in _tables(found).items()}  # escaped there
    charts = {name: Markup("".join(svgs)) for name, svgs in _charts(found).items()}  # escaped there
    return template.render(found, tables=tables, charts=charts, tiles=_tiles(found["figures"]), day=_day)


def _day(when: str) -> str:
    return f"{datetime.fromisoformat(when):%d %B %Y, %H:%M}"


def _tiles(figures: Found) -> list[tuple[str, str]]:
    return [
        ("good answers", f"{figures['rate']:.1f}/s"),
        ("texts", f"{figures['texts_per_s']:.1f}/s"),
        *((name, ms(figures[name])) for name in ("p50", "p90", "p99", "p99.9")),
        ("failed", percent(figures["failures"])),
        ("requests", str(figures["sent"])),
    ]


def _tables(found: Found) -> dict[str, Table]:
    verdicts = [
        (Marked("met", "good") if v["is_met"] else Marked("not met", "bad"), v["wanted"], v["measured"])
        for v in found["verdicts"]
    ]
    knee = found["knee"] or {"goal": "", "steps": []}
    steps = [
        (
            f"{step['rate']:.1f}/s{' (confirming)' if step['is_confirmation'] else ''}",
            f"{step['answered_rate']:.1f}/s",
            ms(step["latency_ms"]),
            percent(step["failures_percent"]),
            Marked("carried", "good") if step["is_carried"] else Marked("too much", "bad"),
            "generator late" if step["is_generator_limit"] else "",
        )
        for step in knee["steps"]
    ]
    stages = [
        (
            stage["name"],
            f"{stage['duration_s']:.0f} s",
            stage["figures"]["sent"],
            f"{stage['figures']['rate']:.1f}/s",
            *(ms(stage["figures"][name]) for name in ("p50", "p99")),
            "\n".join(
                f"{n} {code}: {stage['messages'].get(code, '')}" for code, n in sorted(stage["failures"].items())
            ),
        )
        for stage in found["stages"]
    ]
    kinds = [
        (kind, of["sent"], *(ms(of[name]) for name in ("p50", "p90", "p99")), percent(of["failures"]))
        for kind, of in found["kinds"].items()
    ]
    return {
        "verdicts": Table(["", "goal", "measured"], verdicts, words=(0, 1, 2)),
        "changes": change_table(found.get("compared", {}).get("changes", [])),
        "steps": Table(["offered", "answered", knee["goal"], "failed", "", ""], steps, words=(0, 4, 5)),
        "stages": Table(["", "length", "sent", "answered", "p50", "p99", "failures"], stages, words=(0, 6)),
        "kinds": Table(["", "sent", "p50", "p90", "p99", "failed"], kinds),
        "about": Table(["", ""], _about(found), words=(0, 1)),
    }


def _about(found: Found) -> list[tuple[str, object]]:
    settings = {name.replace("_", " "): value for name, value in found["settings"].items() if value not in (None, [])}
    told = {**settings, "generator": generator_line(found["generator"]), "server's queue": "none", **found["machine"]}
    if queue := found["queue"]:
        limit = f"{queue['timeout_s']:g} s at most" if queue["timeout_s"] else "no time limit"
        told["server's queue"] = f"{queue['size'] or 'any number of'} requests, {limit}"
    return [(name, "; ".join(value) if isinstance(value, list) else value) for name, value in told.items()]


def _charts(found: Found) -> dict[str, list[str]]:
    rows, samples, knee = found["seconds"], found["server"], found["knee"]
    shares = list(Histogram.from_text(found["latency"]).shares())
    share = Series("", [(shares[0][0], 0.0), *shares] if shares else [], BLUE)
    within = Panel("Good answers within so many ms, %", [share], x_title="ms, from the intended time", x_scale="log")
    time: dict[str, Any] = {
        "x_title": "min:s",
        "x_scale": "time",
        "x_range": (0.0, max((row["time_s"] for row in rows), default=0) + 1),
        "spans": [
            (stage["begin_s"], stage["begin_s"] + stage["duration_s"], stage["name"]) for stage in found["stages"]
        ],
    }

    def line(name: str, values: Iterable[float | None], colour: str) -> Series:
        return Series(name, _broken(rows, values), colour)

    latency = [line(name, (row[name] for row in rows), c) for name, c in (("p50", GREEN), ("p90", AMBER), ("p99", RED))]
    rates = [line(name, (row[name] for row in rows), c) for name, c in (("sent", GREY), ("answered", GREEN))]
    codes = sorted({code for row in rows for code in row["failed"]})
    failed = [
        line(code, (row["failed"].get(code, 0) for row in rows), colour)
        for code, colour in zip(codes, (RED, AMBER, VIOLET, GREY, *COLOURS, *COLOURS), strict=False)
    ]
    callers = [
        Panel("Requests/s", rates, **time),
        Panel("Latency, ms, from the intended time", latency, y_scale="log", limit=knee and knee["limit_ms"], **time),
        *([Panel("Failures by gRPC code, requests/s", failed, **time)] if failed else []),
        Panel("Sent late, ms, p99", [line("", (row["late_p99"] for row in rows), VIOLET)], **time),
    ]
    server = [
        [
            Panel(title, [Series("", [(sample["time_s"] - 0.5, sample[name]) for sample in samples], colour)], **time)
            for name, title, colour in row
        ]
        for row in SERVER
    ]
    searches = (knee, "at each rate tried"), (found["check"], "by the other generator")
    return {
        "distribution": [draw([within])],
        "knee": [draw([_knee(search, how) for search, how in searches if search])] if knee else [],
        "callers": [draw([panel]) for panel in callers],
        "server": [draw(panels, height=2.4) for panels in server],
    }


def _broken(rows: Sequence[Found], values: Iterable[float | None]) -> list[tuple[float, float | None]]:
    """Points in the middle of each second, interrupted where a stage ends."""
    points: list[tuple[float, float | None]] = []
    for number, (row, value) in enumerate(zip(rows, values, strict=True)):
        if number and row["stage"] != rows[number - 1]["stage"]:
            points.append((row["time_s"], None))
        points.append((row["time_s"] + 0.5, value))
    return points


def _knee(knee: Found, how: str) -> Panel:
    steps = sorted(knee["steps"], key=lambda step: float(step["rate"]))
    lines = [
        Series(name, [(s["rate"], s["latency_ms"]) for s in steps if s["is_carried"] == is_carried], colour,
               is_dashed=not is_carried, has_marks=True)
        for name, is_carried, colour in (("carried", True, GREEN), ("too much", False, RED))
    ]  # fmt: skip
    title = f"{knee['goal']}, ms, {how}"
    return Panel(title, lines, x_title="requests/s offered", y_scale="log", limit=knee["limit_ms"])
