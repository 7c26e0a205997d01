"""The report for a person: one HTML file that holds all it shows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from load import page_charts
from load.markup import section, table, text
from load.wording import ms

_HERE = Path(__file__).parent


def page(found: Mapping[str, Any]) -> str:
    """The whole page, of what result.json holds."""
    settings = found["settings"]
    started = datetime.fromisoformat(found["started"])
    title = f"Load test: {settings['shape']}"
    body = [
        f"<h1>{title}</h1>",
        f'<p class="sub">{started:%d %B %Y, %H:%M} · {text(found["target"])} · users: {text(settings["users"])} · '
        f"{text(found['machine']['processor'])}, {found['machine']['cores']} cores</p>",
        _banner(found),
        "".join(f'<p class="note">{text(note)}</p>' for note in found["notes"]),
        _tiles(found),
        _verdicts(found),
        _compared(found),
        page_charts.knee_section(found),
        page_charts.distribution_section(found),
        page_charts.time_section(found),
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
        words += f" · sustains {knee['rate']:.1f} requests/s with {text(found['settings']['latency_goal'])}"
    return f'<p class="banner {kind}">{words}</p>'


def _tiles(found: Mapping[str, Any]) -> str:
    figures = found["figures"]
    tiles = [
        (f"{figures['rate']:.1f}/s", "good answers"),
        (f"{figures['texts_per_s']:.1f}/s", "texts"),
        *((ms(figures[name]), name) for name in ("p50", "p90", "p99", "p99.9")),
        ("-" if figures["failures"] is None else f"{figures['failures']:.2g}%", "failed"),
        (f"{figures['sent']:.0f}", "requests"),
    ]
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in tiles)
    return f"<h2>Measured in '{text(found['main']['stage'])}'</h2><div class=\"tiles\">{cells}</div>"


def _verdicts(found: Mapping[str, Any]) -> str:
    rows = [
        [
            '<span class="good">met</span>' if verdict["is_met"] else '<span class="bad">not met</span>',
            text(verdict["wanted"]),
            text(verdict["measured"]),
        ]
        for verdict in found["verdicts"]
    ]
    return section("Verdict", table(["", "goal", "measured"], rows)) if rows else ""


def _compared(found: Mapping[str, Any]) -> str:
    compared = found.get("compared")
    if not compared:
        return ""
    colours = {"better": "good", "worse": "bad"}
    rows = [
        [
            text(change["figure"]),
            f"{change['before']:.4g} {change['unit']}",
            f"{change['after']:.4g} {change['unit']}",
            "" if change["percent"] is None else f"{change['percent']:+.1f}%",
            f"±{change['noise']:.3g} {change['unit']}",
            f'<span class="{colours.get(change["word"], "")}">{change["word"]}</span>',
        ]
        for change in compared["changes"]
    ]
    notes = "".join(f'<p class="note">{text(line)}</p>' for line in compared["differences"])
    when = datetime.fromisoformat(compared["with"])
    return section(
        f"Against the run of {when:%d %B %Y, %H:%M}",
        notes
        + table(["", "before", "now", "change", "noise (95%)", ""], rows, numbers=(1, 2, 3, 4))
        + "<p class='none'>Noise is the variation within the two runs; it cannot see what changes from run to run.</p>",
    )


def _stages(found: Mapping[str, Any]) -> str:
    rows = [
        [
            text(stage["name"]),
            f"{stage['profile'][-1][0]:.0f} s",
            f"{stage['figures']['sent']:.0f}",
            f"{stage['figures']['rate']:.1f}/s",
            ms(stage["figures"]["p50"]),
            ms(stage["figures"]["p99"]),
            "<br>".join(
                f"{count} {text(code)}: {text(stage['messages'].get(code, ''))}"
                for code, count in sorted(stage["failures"].items())
            )
            or "none",
        ]
        for stage in found["stages"]
    ]
    return section(
        "Stages", table(["", "length", "sent", "answered", "p50", "p99", "failures"], rows, numbers=(1, 2, 3, 4, 5))
    )


def _kinds(found: Mapping[str, Any]) -> str:
    if len(found["kinds"]) < 2:
        return ""
    rows = [
        [
            text(kind),
            f"{figures['sent']}",
            *(ms(figures[name]) for name in ("p50", "p90", "p99")),
            "-" if figures["failures"] is None else f"{figures['failures']:.2g}%",
        ]
        for kind, figures in found["kinds"].items()
    ]
    of_kinds = table(["", "sent", "p50", "p90", "p99", "failed"], rows, numbers=(1, 2, 3, 4, 5))
    return section(f"Kinds of request in '{text(found['main']['stage'])}'", of_kinds)


def _about(found: Mapping[str, Any]) -> str:
    generator, queue = found["generator"], found["queue"]
    told = {
        **{name.replace("_", " "): value for name, value in found["settings"].items() if value not in (None, [])},
        "generator": f"{generator['processes']} processes, {generator['connections']} connections, "
        f"{generator['cpu_ms_per_request'] or 0:.2f} ms of CPU a request, at most "
        f"{100 * generator['cpu_share_highest']:.0f}% of a core, 99% left within {ms(generator['late_p99_ms'])}",
        "server's queue": f"{queue['size'] or 'any number of'} requests, "
        + (f"{queue['timeout_s']:g} s at most" if queue["timeout_s"] else "no time limit")
        if queue
        else "none",
        **found["machine"],
    }
    rows = [
        [text(name), text("; ".join(value) if isinstance(value, list) else str(value))] for name, value in told.items()
    ]
    return section("How it was measured", table(["", ""], rows))
