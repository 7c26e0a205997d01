"""The tables and the plot of `docs/scaling.md`: of results, none typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.settings import ROOT
from load.charts import AMBER, BLUE, GREY, Panel, Series, draw
from load.tables import Table

PAGE = ROOT / "docs" / "scaling.md"
COMMAND = "scripts/bench fleet --docs"


class PageError(ValueError):
    """The page has no place for the tables."""


def write(result: Mapping[str, Any], page: Path = PAGE) -> None:
    """Write tables and plot into the page, the plot and the figures in the folder beside it."""
    replace_between_marks(page, COMMAND, text(result))
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    days = result["days"]
    kept = {**result, "days": [{name: value for name, value in day.items() if name != "minutes"} for day in days]}
    (folder / "fleet.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    (folder / "day.svg").write_text(_plot(days), encoding="utf-8")


def replace_between_marks(page: Path, command: str, written: str) -> None:
    """Write what a command found between its marks in the page; raises PageError if it has none."""
    begin, end = (f"<!-- written by {command}: {edge} -->\n" for edge in ("begin", "end"))
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise PageError(f"{page} has no place for the tables: the lines {begin.strip()} and {end.strip()}")
    page.write_text(before + begin + written + end + after, encoding="utf-8")


def text(result: Mapping[str, Any]) -> str:
    """What stands between the marks."""
    parts = [source(result)]
    if result["checks"]:
        parts += ["Mean latency in seconds, of real servers behind Envoy and simulated:", _checks(result["checks"])]
    parts += [
        f"A day with a peak of {result['peak']:,.0f} texts a second and thirteen bursts, servers of two cores:",
        _days(result["days"]),
        "![a day](scaling/day.svg)",
        "The same day for fleets of other sizes, scaled by how busy instances are:",
        _sizes(result["sizes"]),
        "Money, at the prices given with the command:",
        _costs(result["costs"]),
    ]
    return "\n\n".join(parts) + "\n"


def source(result: Mapping[str, Any]) -> str:
    """How the figures came about."""
    return f"Command: `{result['command']}`, {result['date']}, {result['processor']}, {result['cores']} cores."


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    heads = ("servers", "share of capacity", "texts", "failed", "real", "simulated", "off by", "real p99", "simulated")
    rows = [
        (one["servers"], f"{one['share']:.0%}", f"{one['texts']:,}", one["failed"], f"{one['real_mean_s']:.3f}",
         f"{one['simulated_mean_s']:.3f}", f"{one['simulated_mean_s'] / one['real_mean_s'] - 1:+.0%}",
         f"{one['real_p99_s']:.2f}", f"{one['simulated_p99_s']:.2f}")
        for one in checks
    ]  # fmt: skip
    return Table(heads, rows, words=()).markdown()


def _days(days: Sequence[Mapping[str, Any]]) -> str:
    heads = (
        "scaled by",
        "a new pod answers after",
        "pod hours",
        "of the least possible",
        "kept below 1 s",
        "refused",
        "most pods",
    )
    rows = [
        (one["rule"], f"{one['start_s']} s", f"{one['pod_hours']:,.0f}", f"{one['pod_hours'] / one['ideal_hours']:.2f}",
         f"{one['kept']:.2%}", f"{one['refused']:.3%}", f"{one['most']:,.0f}")
        for one in days
    ]  # fmt: skip
    return Table(heads, rows).markdown()


def _sizes(sizes: Sequence[Mapping[str, Any]]) -> str:
    heads = (
        "most pods",
        "peak, texts/s",
        "kept below 1 s",
        "cores of the door",
        "health checks of a pod, a second",
        "samples a second",
    )
    rows = [
        (f"{one['most']:,.0f}", f"{one['peak']:,.0f}", f"{one['kept']:.2%}", f"{one['door_cores']:,.1f}",
         f"{one['checks_per_s']:,.0f}", f"{one['samples_per_s']:,.0f}")
        for one in sizes
    ]  # fmt: skip
    return Table(heads, rows, words=()).markdown()


def _costs(costs: Sequence[Mapping[str, Any]]) -> str:
    heads = (
        "pool",
        "texts/s of a pod",
        "an hour",
        "a million texts, always busy",
        "a million texts of that day",
        "how known",
    )
    rows = [
        (
            one["pool"],
            f"{one['rate']:,.0f}",
            f"{one['price']:.3f}",
            f"{one['busy']:.2f}",
            f"{one['day']:.2f}",
            one["source"],
        )
        for one in costs
    ]
    return Table(heads, rows, words=(0, 5)).markdown()


def _plot(days: Sequence[Mapping[str, Any]]) -> str:
    """Traffic, replicas and latency of the days that have their minutes with them."""
    shown = [day for day in days if "minutes" in day]
    colours = dict(zip((day["rule"] for day in shown), (BLUE, AMBER), strict=True))
    hours = [minute / 60 for minute in range(len(shown[0]["minutes"]["texts"]))]

    def series(name: str) -> list[Series]:
        return [
            Series(day["rule"], list(zip(hours, day["minutes"][name], strict=True)), colours[day["rule"]])
            for day in shown
        ]

    panels = [
        Panel(
            "texts a second",
            [Series("", list(zip(hours, shown[0]["minutes"]["texts"], strict=True)), GREY)],
            x_title="hour",
        ),
        Panel("servers that answer", series("ready"), x_title="hour"),
        Panel("p99, seconds, the worst of each minute", series("p99_s"), x_title="hour", y_scale="log"),
    ]
    return draw(panels, title="A day, second by second")
