"""`docs/benchmarks.md` from the results of one or more runs: tables, plots, hardware and commands, none typed by hand.

What a person has to say about the figures stands in `preface.md` in the folder of the plots, and comes first.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.plots import plots
from bench.report import HOW, facts
from bench.summary import Result, warnings
from bench.table import markdown, sections

PREFACE = "preface.md"


def write(results: Sequence[Path], page: Path) -> Path:
    """Write the page, and the plots it shows into the folder `benchmarks` beside it; returns the page's path."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    runs = []
    for number, result in enumerate(results, 1):
        measured = json.loads(result.read_text(encoding="utf-8"))
        pictures = {}
        for name, svg in plots(measured).items():
            path = folder / (f"run-{number}-{name}.svg" if len(results) > 1 else f"{name}.svg")
            path.write_text(svg, encoding="utf-8")
            pictures[name] = f"{folder.name}/{path.name}"
        runs.append((measured, pictures))
    preface = folder / PREFACE
    said = preface.read_text(encoding="utf-8") if preface.is_file() else ""
    page.write_text(text(runs, said), encoding="utf-8")
    return page


def text(runs: Sequence[tuple[Result, dict[str, str]]], preface: str = "") -> str:
    """The page; each run comes with the paths of its pictures by the plot's name."""
    lines = [
        "# Benchmarks",
        "",
        "Tables and plots are written by `scripts/bench docs`; measure on your machine with the same commands.",
        "",
        *([preface.strip(), ""] if preface else []),
        HOW,
        "",
    ]
    for number, (result, pictures) in enumerate(runs, 1):
        lines += [f"## Run {number}", ""] if len(runs) > 1 else []
        lines += _run(result, pictures, "###" if len(runs) > 1 else "##")
    return "\n".join(lines).rstrip() + "\n"


def _run(result: Result, pictures: dict[str, str], level: str) -> list[str]:
    lines = [
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
        lines += [f"{level} {heading}", "", markdown(rows), ""]
    return lines
