"""The report for a person: one HTML file that holds all it shows."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from load.charts import COLOURS, Series, chart
from load.histogram import GROWTH, value_of

BLUE, AMBER, RED, GREEN, VIOLET, GREY = COLOURS
_HERE = Path(__file__).parent


def page(found: Mapping[str, Any]) -> str:
    """The whole page, of what result.json holds."""
    settings = found["settings"]
    started = datetime.fromisoformat(found["started"])
    title = f"Load test: {settings['shape']}"
    body = [
        f"<h1>{title}</h1>",
        f'<p class="sub">{started:%d %B %Y, %H:%M} · {_text(found["target"])} · users: {_text(settings["users"])} · '
        f"{_text(found['machine']['processor'])}, {found['machine']['cores']} cores</p>",
        _banner(found),
        "".join(f'<p class="note">{_text(note)}</p>' for note in found["notes"]),
        _tiles(found),
        _verdicts(found),
        _compared(found),
        _knee(found),
        _distribution(found),
        _time(found),
        _stages(found),
        _kinds(found),
        _about(found),
    ]
    css, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{css}</style></head>\n'
        f'<body>{"".join(body)}<div id="tip"></div><script>{script}</script></body></html>\n'
    )


def _banner(found: Mapping[str, Any]) -> str:
    knee, verdicts = found["knee"], found["verdicts"]
    missed = sum(not verdict["is_met"] for verdict in verdicts)
    if not verdicts:
        kind, words = "none", "No goals were set"
    elif missed:
        kind, words = "not", f"{missed} of {len(verdicts)} goals not met"
    else:
        kind, words = "met", "All goals met" if len(verdicts) > 1 else "Goal met"
    if knee and knee["rate"]:
        words += f" · sustains {knee['rate']:.1f} requests/s with {_text(found['settings']['latency_goal'])}"
    return f'<p class="banner {kind}">{words}</p>'


def _tiles(found: Mapping[str, Any]) -> str:
    figures = found["figures"]
    tiles = [
        (f"{figures['rate']:.1f}/s", "good answers"),
        (f"{figures['texts_per_s']:.1f}/s", "texts"),
        *((_ms(figures[name]), name) for name in ("p50", "p90", "p99", "p99.9")),
        ("-" if figures["failures"] is None else f"{figures['failures']:.2g}%", "failed"),
        (f"{figures['sent']:.0f}", "requests"),
    ]
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in tiles)
    return f"<h2>Measured in '{_text(found['main']['stage'])}'</h2><div class=\"tiles\">{cells}</div>"


def _verdicts(found: Mapping[str, Any]) -> str:
    rows = [
        [
            '<span class="good">met</span>' if verdict["is_met"] else '<span class="bad">not met</span>',
            _text(verdict["wanted"]),
            _text(verdict["measured"]),
        ]
        for verdict in found["verdicts"]
    ]
    return _section("Verdict", _table(["", "goal", "measured"], rows)) if rows else ""


def _compared(found: Mapping[str, Any]) -> str:
    compared = found.get("compared")
    if not compared:
        return ""
    colours = {"better": "good", "worse": "bad"}
    rows = [
        [
            _text(change["figure"]),
            f"{change['before']:.4g} {change['unit']}",
            f"{change['after']:.4g} {change['unit']}",
            "" if change["percent"] is None else f"{change['percent']:+.1f}%",
            f"±{change['noise']:.3g} {change['unit']}",
            f'<span class="{colours.get(change["word"], "")}">{change["word"]}</span>',
        ]
        for change in compared["changes"]
    ]
    notes = "".join(f'<p class="note">{_text(line)}</p>' for line in compared["differences"])
    when = datetime.fromisoformat(compared["with"])
    return _section(
        f"Against the run of {when:%d %B %Y, %H:%M}",
        notes
        + _table(["", "before", "now", "change", "noise (95%)", ""], rows, numbers=(1, 2, 3, 4))
        + "<p class='none'>Noise is the variation within the two runs; it cannot see what changes from run to run.</p>",
    )


def _knee(found: Mapping[str, Any]) -> str:
    knee = found["knee"]
    if not knee or not knee["steps"]:
        return ""
    drawings = [_knee_chart(knee, "Latency at each rate tried")]
    if found["check"]:
        drawings.append(_knee_chart(found["check"], "The same by the other generator"))
    rows = [
        [
            f"{step['rate']:.1f}/s{' (confirming)' if step['is_confirmation'] else ''}",
            f"{step['answered_rate']:.1f}/s",
            _ms(step["latency_ms"]),
            f"{step['failures_percent']:.2g}%",
            f'<span class="{"good" if step["is_carried"] else "bad"}">{"carried" if step["is_carried"] else "too much"}'
            f"</span>{' (generator late)' if step['is_generator_limit'] else ''}",
        ]
        for step in knee["steps"]
    ]
    table = _table(["offered", "answered", knee["goal"], "failed", ""], rows, numbers=(1, 2, 3))
    return _section("The knee", "".join(drawings) + f"<details><summary>every step</summary>{table}</details>")


def _knee_chart(knee: Mapping[str, Any], title: str) -> str:
    steps = sorted(knee["steps"], key=lambda step: step["rate"])
    lines = [
        Series(
            name,
            [(step["rate"], step["latency_ms"]) for step in steps if step["is_carried"] == carried],
            colour,
            has_marks=True,
            is_dashed=not carried,
        )
        for name, carried, colour in (("carried", True, GREEN), ("too much", False, RED))
    ]
    return chart(
        title,
        f"{knee['goal']}, ms",
        lines,
        x_title="requests/s offered",
        is_log=True,
        is_time=False,
        limit=knee["limit_ms"],
    )


def _distribution(found: Mapping[str, Any]) -> str:
    pairs = found["latency"]
    whole = sum(count for _, count in pairs)
    points: list[tuple[float, float | None]] = []
    passed = 0
    for bucket, count in sorted(pairs):
        points.append((value_of(bucket), 100 * passed / whole))
        passed += count
        points.append((value_of(bucket) * GROWTH, 100 * passed / whole))
    drawn = chart(
        f"Latency of the good answers in '{found['main']['stage']}'",
        "% answered within",
        [Series("share", points, BLUE)],
        x_title="ms",
        is_time=False,
    )
    return _section("Latency distribution", drawn)


def _time(found: Mapping[str, Any]) -> str:
    rows, samples = found["seconds"], found["server"]
    if not rows:
        return ""
    end = max(row["time_s"] for row in rows) + 1
    spans = [(stage["begin_s"], stage["begin_s"] + stage["profile"][-1][0], stage["name"]) for stage in found["stages"]]

    def of(name: str) -> list[tuple[float, float | None]]:
        return _broken([(row["time_s"] + 0.5, row[name], row["stage"]) for row in rows])

    def draw(title: str, unit: str, lines: Sequence[Series], **options: Any) -> str:
        return chart(title, unit, lines, spans=spans, x_range=(0.0, end), x_title="time, min:s", **options)

    def server(title: str, unit: str, name: str, colour: str) -> str:
        points = [(sample["time_s"] - 0.5, sample[name]) for sample in samples]
        return draw(title, unit, [Series(title.lower(), points, colour)])

    codes = sorted({code for row in rows for code in row["failed"]})
    failed = [
        Series(
            code,
            _broken([(row["time_s"] + 0.5, row["failed"].get(code, 0), row["stage"]) for row in rows]),
            (RED, AMBER, VIOLET, GREY)[number % 4],
        )
        for number, code in enumerate(codes)
    ]
    charts = [
        draw("Rate", "requests/s", [Series("offered", of("sent"), GREY), Series("answered", of("answered"), GREEN)]),
        draw(
            "Latency",
            "ms, from the intended time",
            [Series(name, of(name), colour) for name, colour in (("p50", GREEN), ("p90", AMBER), ("p99", RED))],
            is_log=True,
            limit=_latency_limit(found),
        ),
        draw("Failures by gRPC code", "requests/s", failed)
        if failed
        else '<figure><figcaption>Failures by gRPC code</figcaption><p class="none">none</p></figure>',
        draw("Generator lateness", "ms, p99", [Series("sent after the intended time", of("late_p99"), VIOLET)]),
    ]
    told = [
        server("Wait in the server's queues", "ms a request", "queue_ms", AMBER),
        server("Requests waiting", "requests", "waiting", AMBER),
        server("Failed, as the server counts", "requests/s", "failed_per_s", RED),
        server("Batch size", "texts an execution", "batch_size", BLUE),
        server("Executions", "per second", "executions_per_s", BLUE),
        server("Response cache hits", "per second", "cache_hits_per_s", GREEN),
        server("CPU of the server", "cores", "cpu_cores", VIOLET),
        server("Memory of the server", "MiB", "memory_mib", VIOLET),
    ]
    if not any(value is not None for sample in samples for name, value in sample.items() if name != "time_s"):
        told = ['<p class="none">Not known: neither its metrics nor its processes could be read.</p>']
    return _section("Over time", "".join(charts)) + _section("The server, at the same times", "".join(told))


def _broken(points: Sequence[tuple[float, float | None, str]]) -> list[tuple[float, float | None]]:
    """A line that is interrupted where a stage ends."""
    line: list[tuple[float, float | None]] = []
    stage = None
    for x, y, of in points:
        if stage not in (None, of):
            line.append((x - 0.5, None))
        stage = of
        line.append((x, y))
    return line


def _stages(found: Mapping[str, Any]) -> str:
    rows = [
        [
            _text(stage["name"]),
            f"{stage['profile'][-1][0]:.0f} s",
            f"{stage['figures']['sent']:.0f}",
            f"{stage['figures']['rate']:.1f}/s",
            _ms(stage["figures"]["p50"]),
            _ms(stage["figures"]["p99"]),
            "<br>".join(
                f"{count} {_text(code)}: {_text(stage['messages'].get(code, ''))}"
                for code, count in sorted(stage["failures"].items())
            )
            or "none",
        ]
        for stage in found["stages"]
    ]
    return _section(
        "Stages", _table(["", "length", "sent", "answered", "p50", "p99", "failures"], rows, numbers=(1, 2, 3, 4, 5))
    )


def _kinds(found: Mapping[str, Any]) -> str:
    if len(found["kinds"]) < 2:
        return ""
    rows = [
        [
            _text(kind),
            f"{figures['sent']}",
            *(_ms(figures[name]) for name in ("p50", "p90", "p99")),
            "-" if figures["failures"] is None else f"{figures['failures']:.2g}%",
        ]
        for kind, figures in found["kinds"].items()
    ]
    table = _table(["", "sent", "p50", "p90", "p99", "failed"], rows, numbers=(1, 2, 3, 4, 5))
    return _section(f"Kinds of request in '{_text(found['main']['stage'])}'", table)


def _about(found: Mapping[str, Any]) -> str:
    generator, queue = found["generator"], found["queue"]
    told = {
        **{name.replace("_", " "): value for name, value in found["settings"].items() if value not in (None, [])},
        "generator": f"{generator['processes']} processes, {generator['connections']} connections, "
        f"{generator['cpu_ms_per_request'] or 0:.2f} ms of CPU a request, at most "
        f"{100 * generator['cpu_share_highest']:.0f}% of a core, 99% left within {_ms(generator['late_p99_ms'])}",
        "server's queue": f"{queue['size'] or 'any number of'} requests, "
        + (f"{queue['timeout_s']:g} s at most" if queue["timeout_s"] else "no time limit")
        if queue
        else "none",
        **found["machine"],
    }
    rows = [
        [_text(name), _text("; ".join(value) if isinstance(value, list) else str(value))]
        for name, value in told.items()
    ]
    return _section("How it was measured", _table(["", ""], rows))


def _latency_limit(found: Mapping[str, Any]) -> float | None:
    return found["knee"]["limit_ms"] if found["knee"] else None


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if number in numbers else ''}>{cell}</{tag}>" for number, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    head = f"<tr>{row(heads, 'th')}</tr>" if any(heads) else ""
    return f"<table>{head}{body}</table>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"
