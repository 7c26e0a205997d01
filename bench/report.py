"""One HTML page of a result that opens from disk: tables, and plots drawn into the page."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from bench.plots import inline, plots
from bench.summary import Result, warnings
from bench.table import sections

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #0f172a; max-width: 1120px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e2e8f0 }
th:first-child, td:first-child { text-align: left }
div.wide { overflow-x: auto }
svg { width: 100%; height: auto; margin: .8rem 0 }
p.warning { background: #fef3c7; border-left: 4px solid #d97706; padding: .5rem 1rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem } dd { margin: 0 }
code { background: #f1f5f9; padding: 0 .3rem }
"""

HOW = (
    "Systems take turns, each started for its turn and stopped after it; figures are medians over the rounds, ± half "
    "the range. The load generator is a process of its own on the same machine. A closed loop keeps so many callers "
    "waiting; an open one sends at a constant rate, and latency counts from when a request was due. Raw onnxruntime "
    "runs token ids made beforehand, without any server: the limit. Differences are those of probabilities from the "
    "float32 graph's, each text alone: the largest and the mean over all answers under load."
)


def write(result: Result, folder: Path) -> Path:
    """Write `report.html`, and each plot as a file of its own, into the folder; returns the report's path."""
    drawn = plots(result)
    for name, svg in drawn.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    path = folder / "report.html"
    path.write_text(page(result, drawn), encoding="utf-8")
    return path


def page(result: Result, drawn: dict[str, str]) -> str:
    """The whole page; it refers to nothing outside of itself."""
    parts = [f"<p class='warning'>{escape(text)}</p>" for text in warnings(result)]
    parts.append(_facts(result))
    parts.append(f"<p>{escape(HOW)}</p>")
    if drawn:
        parts.append("<h2>Plots</h2>")
        parts += [inline(svg, f"p{number}") for number, svg in enumerate(drawn.values())]
    for heading, lines in sections(result):
        parts.append(f"<h2>{escape(heading)}</h2><div class='wide'>{_table(lines)}</div>")
    notes = [entry for entry in result["systems"].values() if entry.get("notes")]
    if notes:
        items = "".join(f"<dt>{escape(entry['title'])}</dt><dd>{escape(entry['notes'])}</dd>" for entry in notes)
        parts.append(f"<h2>How the peers are set up</h2><dl>{items}</dl>")
    body = "\n".join(parts)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Benchmark, {escape(result['date'][:10])}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>Benchmark</h1>\n{body}\n</body></html>\n"
    )


def facts(result: Result) -> list[tuple[str, str]]:
    """What the figures were measured on and with."""
    machine, settings = result["hardware"], result["settings"]
    lengths = "; ".join(
        f"{entry['title']}: "
        + ", ".join(f"{share} {tokens}" for share, tokens in entry["distilroberta_tokens"].items())
        for entry in result["workloads"].values()
        if entry["batch"] == 1
    )
    own = result.get("generator")
    cost = (
        f"{own['cpu_ms_per_request']:.2f} ms of CPU a request, {own['requests_per_s']:,.0f} requests/s of a server "
        "that answers at once"
        if own
        else ""
    )
    found = [
        ("Command", result["command"]),
        ("Date", result["date"]),
        ("Commit", result["commit"]),
        ("Processor", f"{machine['processor']}, {machine['cores']} cores ({', '.join(machine['flags'])})"),
        ("Memory", f"{machine['memory_gb']:g} GB"),
        ("System", machine["system"] + (", virtual machine" if machine["virtual"] else "")),
        ("Idle before", f"{machine['idle_before']:.0%} of the cores"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in result["versions"].items())),
        (
            "Windows",
            f"{settings['seconds']:g} s after {settings['warm_s']:g} s of warm-up, {settings['rounds']} rounds",
        ),
        ("Tokens (DistilRoBERTa)", lengths),
        ("Load generator", cost),
    ]
    return [(name, value) for name, value in found if value]


def _facts(result: Result) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{_code(name, value)}</dd>" for name, value in facts(result))
    return f"<dl>{items}</dl>"


def _code(name: str, value: str) -> str:
    return f"<code>{escape(value)}</code>" if name == "Command" else escape(value)


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = lines
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return "<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + f"</tr>{rows}</table>"
