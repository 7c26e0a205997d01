"""The generated part of `docs/benchmarks.md`: tables and plots from results, none typed by hand.

Results are kept beside the plots, without what the page does not show, so that the page can be written again.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Row
from bench.plan import OURS, RAW
from bench.plots import plots
from bench.summary import HOW, Result, facts, limit, median, of, pairs, rows, systems, title, warnings
from bench.table import number, rate, sections
from load.tables import Table

BEGIN = "<!-- written by scripts/bench docs: begin -->\n"
END = "<!-- end -->\n"
PLOTS = ("concurrency-mixed", "time-of-a-request")
MOST_PLOTS = 3
DROPPED = ("triton", "error", "seconds", "requests", "generator_late_p99_ms")
"""Figures of a point that are left out where they are not shown."""
KEPT_FACTS = ("Command", "Date", "Commit", "Processor", "System", "Idle before", "Versions", "Windows")


class DocsError(ValueError):
    """The page has no place for what is generated."""


def write(results: Sequence[Path], page: Path) -> Path:
    """Write the page's generated part, and what it is made of into the folder beside it; returns the page's path.

    Args:
        results: a `result.json` for each run, in the order of the page; without any, those kept beside the page.
        page: a document that holds BEGIN and END.

    Raises:
        DocsError: The page does not, or there are no results.
    """
    folder = page.with_suffix("")
    given = [json.loads(path.read_text(encoding="utf-8")) for path in results or sorted(folder.glob("run-*.json"))]
    if not given:
        raise DocsError(f"{folder} holds no results: name the result.json of one or more runs")
    before, found, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise DocsError(f"{page} has no place for tables: the lines {BEGIN.strip()} and {END.strip()}")
    folder.mkdir(exist_ok=True)
    for old in (*folder.glob("*.svg"), *folder.glob("run-*.json")):
        old.unlink()
    pictures: list[str] = []
    for count, result in enumerate(given, 1):
        (folder / f"run-{count}.json").write_text(_kept(result), encoding="utf-8")
        for name, svg in plots(result).items():
            if name.startswith(PLOTS) and len(pictures) < MOST_PLOTS:
                pictures.append(f"![{name.replace('-', ' ')}]({folder.name}/{name}.svg)")
                (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    page.write_text(before + BEGIN + text(given, pictures) + END + after, encoding="utf-8")
    return page


def text(given: Sequence[Result], pictures: Sequence[str] = ()) -> str:
    """What stands between the marks."""
    lines = [HOW, ""]
    for count, result in enumerate(given, 1):
        lines += [f"### Run {count}", "", *(f"> **Note:** {warning}\n" for warning in warnings(result))]
        lines += [f"- {name}: {f'`{value}`' if name == 'Command' else value}" for name, value in facts(result)
                  if name in KEPT_FACTS]  # fmt: skip
        for heading, table in (*rates(result), *sections(result)):
            if not heading.startswith(tuple(f"{model}, {precision}:" for model, precision in pairs(result))):
                lines += ["", f"{heading}:", "", table.markdown()]
        lines.append("")
    return "\n".join([*lines, *(f"{picture}\n" for picture in pictures)])


def rates(result: Result) -> list[tuple[str, Table]]:
    """Systems side by side: rates as shares of raw onnxruntime's, and latencies.

    A single caller keeps one core busy, so it is held against one worker of raw onnxruntime alone.
    """
    found, names = rows(result), [system for system in systems(result) if system != RAW]
    speeds, times = [], []
    for model, precision in pairs(result):
        for workload, entry in result["workloads"].items():
            wanted = {"model": model, "precision": precision, "workload": workload, "loop": "closed"}
            for callers in sorted({row["concurrency"] for row in of(found, **wanted)}):
                served = {row["system"]: row for row in of(found, **wanted, concurrency=callers)}
                best = limit(found, model, precision, workload, alone=callers == 1 and entry["batch"] == 1)
                cap = median(best, "texts_per_s")
                point = [f"{model}, {precision}: {entry['title']}", str(callers)]
                speeds.append([*point, number(cap, 1), *(_of_raw(served.get(name), cap) for name in names)])
                times.append([*point, *(_times(served.get(name)) for name in names)])
    if not speeds:
        return []
    heads = ["model: texts", "callers"], [title(result, system) for system in names]
    return [
        ("Texts a second, and in brackets the share of onnxruntime alone (for one caller: of one worker alone)",
         Table([*heads[0], title(result, RAW), *heads[1]], speeds)),
        ("Milliseconds from request to answer, p50 / p99", Table([*heads[0], *heads[1]], times)),
    ]  # fmt: skip


def _of_raw(row: Row | None, cap: float | None) -> str:
    share = (median(row, "texts_per_s") or 0.0) / cap if cap else None
    return f"{rate(row)} ({number(share, 2)})" if row else ""


def _times(row: Row | None) -> str:
    return " / ".join(number(median(row, "latency_ms", share), 1) for share in ("p50", "p99")) if row else ""


def _kept(result: Result) -> str:
    """The result without what no table or plot shows, a line for each point."""
    points = [
        {name: value for name, value in point.items() if name not in DROPPED or _is_single(point, name)}
        for point in result["points"]
    ]
    shown = json.dumps({**result, "points": points})
    return shown.replace('{"round": ', '\n{"round": ') + "\n"


def _is_single(point: Result, name: str) -> bool:
    return name == "triton" and point["system"] == OURS and point["concurrency"] == 1
