"""The drawn parts of the report: the knee, the latency distribution, and the run over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from load.drawing import COLOURS, Series, chart
from load.buckets import GROWTH, value_of
from load.markup import section, table
from load.wording import ms

BLUE, AMBER, RED, GREEN, VIOLET, GREY = COLOURS


def knee_section(found: Mapping[str, Any]) -> str:
    """Latency at each rate tried, and the steps; empty without a search."""
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
            ms(step["latency_ms"]),
            f"{step['failures_percent']:.2g}%",
            f'<span class="{"good" if step["is_carried"] else "bad"}">{"carried" if step["is_carried"] else "too much"}'
            f"</span>{' (generator late)' if step['is_generator_limit'] else ''}",
        ]
        for step in knee["steps"]
    ]
    every = table(["offered", "answered", knee["goal"], "failed", ""], rows, numbers=(1, 2, 3))
    return section("The knee", "".join(drawings) + f"<details><summary>every step</summary>{every}</details>")


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


def distribution_section(found: Mapping[str, Any]) -> str:
    """Share of the good answers within each latency."""
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
    return section("Latency distribution", drawn)


def time_section(found: Mapping[str, Any]) -> str:
    """What happened second by second, at the callers and on the server; empty if nothing was sent."""
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
    return section("Over time", "".join(charts)) + section("The server, at the same times", "".join(told))


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


def _latency_limit(found: Mapping[str, Any]) -> float | None:
    return found["knee"]["limit_ms"] if found["knee"] else None
