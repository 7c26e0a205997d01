"""One HTML page of a result that opens from disk: tables, and plots drawn into the page."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from bench.plots import plots
from bench.summary import HOW, Result, facts, warnings
from bench.table import sections
from load.tables import Table

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1120px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #8884 } .n { text-align: right }
div.wide { overflow-x: auto }
svg { width: 100%; height: auto; margin: .8rem 0 }
p.warning { background: #d9770622; border-left: 4px solid #d97706; padding: .5rem 1rem }
"""


def write(result: Result, folder: Path) -> Path:
    """Write `report.html`, and each plot as a file of its own, into the folder; returns the report's path."""
    drawn = plots(result)
    for name, svg in drawn.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    path = folder / "report.html"
    path.write_text(page(result, drawn), encoding="utf-8")
    return path


def page(result: Result, drawn: Mapping[str, str]) -> str:
    """The whole page; it refers to nothing outside of itself."""
    notes = [(entry["title"], entry["notes"]) for entry in result["systems"].values() if entry.get("notes")]
    tables = [*sections(result), *([("How the peers are set up", Table(("", ""), notes, (0, 1)))] if notes else [])]
    parts = [
        *(f"<p class='warning'>{escape(text)}</p>" for text in warnings(result)),
        Table(("", ""), facts(result), (0, 1)).html(),
        f"<p>{escape(HOW)}</p>",
        *drawn.values(),
        *(f"<h2>{escape(heading)}</h2><div class='wide'>{table.html()}</div>" for heading, table in tables),
    ]
    body = "\n".join(parts)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Benchmark, {escape(result['date'][:10])}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>Benchmark</h1>\n{body}\n</body></html>\n"
    )
