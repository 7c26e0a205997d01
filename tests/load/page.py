"""The report for a person: one HTML file that holds all it shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from load.charts import AMBER, BLUE, GREEN, GREY, RED, VIOLET, Panel, Series, draw
from load.console import change_table, generator_line
from load.histogram import Histogram
from load.tables import Marked, Table, ms, percent

Found = Mapping[str, Any]
DATE = "%d %B %Y, %H:%M"
SERVER_PANELS = (
    (("queue_ms", "Wait in the server's queues, ms a request", AMBER), ("waiting", "Requests waiting", AMBER)),
    (("batch_size", "Texts an execution", BLUE), ("executions_per_s", "Executions a second", BLUE)),
    (
        ("failed_per_s", "Failed a second, as the server counts", RED),
        ("cache_hits_per_s", "Response cache hits a second", GREEN),
    ),
    (("cpu_cores", "CPU of the server, cores", VIOLET), ("memory_mib", "Memory of the server, MiB", VIOLET)),
)


def page(found: Found) -> str:
    """The whole page, of what result.json holds."""
    settings, machine = found["settings"], found["machine"]
    title = f"Load test: {escape(settings['shape'])}"
    told = (
        f"{datetime.fromisoformat(found['started']):{DATE}}", found["target"], f"users: {settings['users']}",
        machine["processor"], f"{machine['cores']} cores",
    )  # fmt: skip
    main = escape(found["main"]["stage"])
    body = [
        f'<h1>{title}</h1><p class="sub">{escape(" · ".join(told))}</p>',
        _banner(found),
        _notes(found["notes"]),
        _section(f"Measured in '{main}'", _tiles(found["figures"])),
        _section("Verdict", _verdicts(found["verdicts"])),
        _compared(found.get("compared")),
        _section("The knee", _knee(found)),
        _section("Latency distribution", _distribution(found)),
        *_over_time(found),
        _section("Stages", _stages(found["stages"])),
        _section(f"Kinds of request in '{main}'", _kinds(found["kinds"])),
        _section("How it was measured", _about(found)),
    ]
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{css}</style></head>\n'
        f"<body>{''.join(body)}</body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}" if content else ""


def _notes(notes: Iterable[str]) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _banner(found: Found) -> str:
    knee, verdicts = found["knee"], found["verdicts"]
    missed = sum(not verdict["is_met"] for verdict in verdicts)
    if not verdicts:
        kind, words = "none", "No goals were set"
    elif missed:
        kind, words = "not", f"{missed} of {len(verdicts)} goals not met"
    else:
        kind, words = "met", "All goals met" if len(verdicts) > 1 else "Goal met"
    if knee and knee["rate"]:
        words += f" · sustains {knee['rate']:.1f} requests/s with {found['settings']['latency_goal']}"
    return f'<p class="banner {kind}">{escape(words)}</p>'


def _tiles(figures: Found) -> str:
    tiles = [
        (f"{figures['rate']:.1f}/s", "good answers"),
        (f"{figures['texts_per_s']:.1f}/s", "texts"),
        *((ms(figures[name]), name) for name in ("p50", "p90", "p99", "p99.9")),
        (percent(figures["failures"]), "failed"),
        (str(figures["sent"]), "requests"),
    ]
    return (
        f'<div class="tiles">{"".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in tiles)}</div>'
    )


def _verdicts(verdicts: Sequence[Found]) -> str:
    rows = [
        (
            Marked("met", "good") if verdict["is_met"] else Marked("not met", "bad"),
            verdict["wanted"],
            verdict["measured"],
        )
        for verdict in verdicts
    ]
    return Table(["", "goal", "measured"], rows, words=(0, 1, 2)).html() if rows else ""


def _compared(compared: Found | None) -> str:
    if not compared:
        return ""
    noise = "Noise is the variation within the two runs; it cannot see what changes from run to run."
    return _section(
        f"Against the run of {datetime.fromisoformat(compared['with']):{DATE}}",
        f'{_notes(compared["differences"])}{change_table(compared["changes"]).html()}<p class="sub">{noise}</p>',
    )


def _knee(found: Found) -> str:
    knee = found["knee"]
    if not knee or not knee["steps"]:
        return ""
    rows = [
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
    steps = Table(["offered", "answered", knee["goal"], "failed", "", ""], rows, words=(0, 4, 5)).html()
    panels = [_knee_panel(knee, "at each rate tried")]
    if found["check"]:
        panels.append(_knee_panel(found["check"], "by the other generator"))
    return f"{draw(panels)}<details><summary>every step</summary>{steps}</details>"


def _knee_panel(knee: Found, how: str) -> Panel:
    steps = sorted(knee["steps"], key=lambda step: float(step["rate"]))
    return Panel(
        f"{knee['goal']}, ms, {how}",
        [
            Series(
                name,
                [(step["rate"], step["latency_ms"]) for step in steps if step["is_carried"] == is_carried],
                colour,
                is_dashed=not is_carried,
                has_marks=True,
            )
            for name, is_carried, colour in (("carried", True, GREEN), ("too much", False, RED))
        ],
        x_title="requests/s offered",
        y_scale="log",
        limit=knee["limit_ms"],
    )


def _distribution(found: Found) -> str:
    shares = list(Histogram.from_text(found["latency"]).shares())
    line = Series("", [(shares[0][0], 0.0), *shares] if shares else [], BLUE)
    title = f"Good answers in '{found['main']['stage']}' within so many ms, %"
    return draw([Panel(title, [line], x_title="ms, from the intended time", x_scale="log")])


def _over_time(found: Found) -> list[str]:
    """What happened second by second, at the callers and on the server; nothing if nothing was sent."""
    rows, samples = found["seconds"], found["server"]
    if not rows:
        return []
    time: dict[str, Any] = {
        "x_title": "min:s",
        "x_scale": "time",
        "x_range": (0.0, max(row["time_s"] for row in rows) + 1),
        "spans": [
            (stage["begin_s"], stage["begin_s"] + stage["duration_s"], stage["name"]) for stage in found["stages"]
        ],
    }

    def line(name: str, colour: str, values: Iterable[float | None]) -> Series:
        points: list[tuple[float, float | None]] = []
        before = rows[0]["stage"]
        for row, value in zip(rows, values, strict=True):
            if row["stage"] != before:  # interrupted where a stage ends
                points.append((row["time_s"], None))
            before = row["stage"]
            points.append((row["time_s"] + 0.5, value))
        return Series(name, points, colour)

    def of(name: str, colour: str, label: str = "") -> Series:
        return line(label or name, colour, (row[name] for row in rows))

    codes = sorted({code for row in rows for code in row["failed"]})
    colours = (RED, AMBER, VIOLET, GREY)
    failed = [
        line(code, colours[number % 4], (row["failed"].get(code, 0) for row in rows))
        for number, code in enumerate(codes)
    ]
    limit = found["knee"]["limit_ms"] if found["knee"] else None
    latency = [of("p50", GREEN), of("p90", AMBER), of("p99", RED)]
    callers = [
        Panel("Requests/s", [of("sent", GREY, "offered"), of("answered", GREEN)], **time),
        Panel("Latency, ms, from the intended time", latency, y_scale="log", limit=limit, **time),
        *([Panel("Failures by gRPC code, requests/s", failed, **time)] if failed else []),
        Panel("Generator: p99 of how late it sent, ms", [of("late_p99", VIOLET, "")], **time),
    ]
    server = [
        [
            Panel(title, [Series("", [(sample["time_s"] - 0.5, sample[name]) for sample in samples], colour)], **time)
            for name, title, colour in row
        ]
        for row in SERVER_PANELS
    ]
    is_known = any(value is not None for sample in samples for name, value in sample.items() if name != "time_s")
    unknown = '<p class="sub">Not known: neither its metrics nor its processes could be read.</p>'
    drawn = "".join(draw(panels, height=2.4) for panels in server) if is_known else unknown
    return [
        _section("Over time", "".join(draw([panel]) for panel in callers)),
        _section("The server, at the same times", drawn),
    ]


def _stages(stages: Sequence[Found]) -> str:
    rows = [
        (
            stage["name"],
            f"{stage['duration_s']:.0f} s",
            stage["figures"]["sent"],
            f"{stage['figures']['rate']:.1f}/s",
            ms(stage["figures"]["p50"]),
            ms(stage["figures"]["p99"]),
            "\n".join(
                f"{count} {code}: {stage['messages'].get(code, '')}"
                for code, count in sorted(stage["failures"].items())
            )
            or "none",
        )
        for stage in stages
    ]
    return (
        Table(["", "length", "sent", "answered", "p50", "p99", "failures"], rows, words=(0, 6)).html() if rows else ""
    )


def _kinds(kinds: Mapping[str, Found]) -> str:
    rows = [
        (kind, figures["sent"], *(ms(figures[name]) for name in ("p50", "p90", "p99")), percent(figures["failures"]))
        for kind, figures in kinds.items()
    ]
    return Table(["", "sent", "p50", "p90", "p99", "failed"], rows).html() if len(rows) > 1 else ""


def _about(found: Found) -> str:
    queue = found["queue"]
    held = "none"
    if queue:
        limit = f"{queue['timeout_s']:g} s at most" if queue["timeout_s"] else "no time limit"
        held = f"{queue['size'] or 'any number of'} requests, {limit}"
    told = {
        **{name.replace("_", " "): value for name, value in found["settings"].items() if value not in (None, [])},
        "generator": generator_line(found["generator"]).removeprefix("generator: "),
        "server's queue": held,
        **found["machine"],
    }
    rows = [(name, "; ".join(value) if isinstance(value, list) else value) for name, value in told.items()]
    return Table(["", ""], rows, words=(0, 1)).html()
