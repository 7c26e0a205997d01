"""What a result says: rounds joined, systems side by side. Pure; tables and plots are made of this."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.figures import merged

RAW = "raw-onnxruntime"
OURS = "rejection-server"
POINT = ("model", "precision", "system", "workload", "loop", "concurrency", "offered_share", "layout")

Result = Mapping[str, Any]
Row = dict[str, Any]


def rows(result: Result) -> list[Row]:
    """Every point once, its rounds joined: numbers are a `median`, `min` and `max`."""
    return merged(result["points"], POINT)


def pairs(result: Result) -> list[tuple[str, str]]:
    """Models and precisions that were measured, in order."""
    return list(dict.fromkeys((point["model"], point["precision"]) for point in result["points"]))


def of(found: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in found if all(row.get(name) == value for name, value in wanted.items())]


def limit(found: Sequence[Row], model: str, precision: str, workload: str) -> Row | None:
    """The fastest layout of raw onnxruntime; requests of many texts are held against single ones of the same texts."""
    workload = "mixed" if workload == "batch" else workload
    tried = of(found, model=model, precision=precision, system=RAW, workload=workload, loop="raw")
    return max(tried, key=lambda row: float(median(row, "texts_per_s") or 0.0), default=None)


def median(row: Row | None, *path: str) -> float | None:
    """A figure's median over the rounds, None if it was not measured."""
    value: Any = row
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value["median"]) if isinstance(value, Mapping) and "median" in value else None


def title(result: Result, system: str) -> str:
    """A system's name for people."""
    return str(result["systems"].get(system, {}).get("title", system))


def systems(result: Result) -> list[str]:
    """Systems that have figures, in the order they were named."""
    found = {point["system"] for point in result["points"]}
    return [system for system in result["systems"] if system in found]


COLUMNS = (
    "system",
    "callers",
    "texts/s",
    "of raw",
    "p50 ms",
    "p99 ms",
    "CPU ms/text",
    "MB",
    "largest diff",
    "mean diff",
)


def comparison(result: Result, model: str, precision: str, workload: str) -> list[list[str]]:
    """Rows for COLUMNS: closed loops of one workload, raw onnxruntime first."""
    found = rows(result)
    best = limit(found, model, precision, workload)
    cap = median(best, "texts_per_s")
    lines = []
    if best is not None and cap:
        name = f"{title(result, RAW)} ({best['layout']})"
        lines.append(
            [name, str(best["concurrency"]), _rate(best), "1.00", *_latency(best), "", "", *_differences(best)]
        )
    for system in systems(result):
        wanted = {"model": model, "precision": precision, "system": system, "workload": workload, "loop": "closed"}
        for row in of(found, **wanted):
            rate = median(row, "texts_per_s")
            lines.append(
                [
                    title(result, system),
                    str(row["concurrency"]),
                    _rate(row) + (" (failures)" if (median(row, "failed") or 0) > 0 else ""),
                    f"{rate / cap:.2f}" if rate and cap else "",
                    *_latency(row),
                    _number(median(row, "cpu_ms_per_text"), 2),
                    _number(median(row, "memory_mb"), 0),
                    *_differences(row),
                ]
            )
    return lines


def spread_of(row: Row, name: str = "texts_per_s") -> float | None:
    """Half the range over the rounds as a share of the median."""
    value = row.get(name)
    if not isinstance(value, Mapping) or not value.get("median"):
        return None
    return float((value["max"] - value["min"]) / 2 / value["median"])


def _rate(row: Row) -> str:
    spread = spread_of(row)
    around = f" ±{spread:.0%}" if spread is not None and row["rounds"] > 1 else ""
    return _number(median(row, "texts_per_s"), 1) + around


def _latency(row: Row) -> list[str]:
    return [_number(median(row, "latency_ms", name), 1) for name in ("p50", "p99")]


def _differences(row: Row) -> list[str]:
    """The largest of all rounds, and the mean."""
    largest = row.get("difference", {}).get("max")
    mean = median(row, "difference", "mean")
    return [f"{largest['max']:.4f}" if largest else "", f"{mean:.5f}" if mean is not None else ""]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


GENERATOR_LIMIT = 0.7
"""Above this share of a core the load generator itself may be what is measured."""


def warnings(result: Result) -> list[str]:
    """What a reader has to know before believing the figures."""
    found = []
    idle = result["hardware"].get("idle_before", 1.0)
    if idle < 0.9:
        found.append(
            f"the machine was busy: {1 - idle:.0%} of its cores before the run began; the figures are not valid"
        )
    busy = [point for point in result["points"] if (point.get("generator_busy") or 0) > GENERATOR_LIMIT]
    if busy:
        found.append(f"the load generator used over {GENERATOR_LIMIT:.0%} of a core at {len(busy)} points")
    failed = sum(1 for point in result["points"] if point.get("failed"))
    if failed:
        found.append(f"requests failed at {failed} points")
    found += [
        f"{entry['system']} with {entry['model']}, {entry['precision']}, failed: {entry['error'].splitlines()[0]}"
        for entry in result["failures"]
    ]
    if not result["complete"]:
        found.append("the run was stopped before its end")
    return found
