"""`docs/benchmarks.md` from a result: tables, plots, hardware and command; no figure is typed by hand."""

import json
from pathlib import Path

from bench.plots import plots
from bench.report import HOW, facts
from bench.summary import Result, warnings
from bench.table import markdown, sections


def write(result: Path, page: Path) -> Path:
    """Write the page, and the plots it shows into the folder `benchmarks` beside it; returns the page's path."""
    measured = json.loads(result.read_text(encoding="utf-8"))
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots(measured)
    for name, svg in drawn.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    page.write_text(text(measured, {name: f"{folder.name}/{name}.svg" for name in drawn}), encoding="utf-8")
    return page


def text(result: Result, pictures: dict[str, str]) -> str:
    """The page; `pictures` are paths by the plot's name."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `scripts/bench docs` from one run; measure on your machine with the same command.",
        "",
        HOW,
        "",
        *(f"> **Note:** {warning}\n" for warning in warnings(result)),
        markdown(
            [
                ("measured", "with"),
                *((name, f"`{value}`" if name == "Command" else value) for name, value in facts(result)),
            ]
        ),
        "",
    ]
    for name, path in pictures.items():
        lines += [f"![{name.replace('-', ' ')}]({path})", ""]
    for heading, rows in sections(result):
        lines += [f"## {heading}", "", markdown(rows), ""]
    return "\n".join(lines)
