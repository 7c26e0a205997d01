"""The tables of a result; `load.tables` shows them on a terminal, in Markdown and in HTML."""

from collections.abc import Sequence

from bench.figures import Row
from bench.plan import OURS, RAW
from bench.summary import Result, limit, median, of, pairs, rows, systems, title, warnings
from load.tables import Table

HEADS = "system|callers|texts/s|of raw|p50 ms|p99 ms|CPU ms/text|MB|largest diff|mean diff"
COLUMNS = HEADS.split("|")
SINGLE = (
    ("seen by the caller", ("seen",)),
    ("network and caller", ("seen", "-rejection total")),
    ("ensemble", ("rejection total", "-tokenizer total", "-classifier total")),
    ("tokenizer queue", ("tokenizer total", "-tokenizer infer")),
    ("tokenizing", ("tokenizer infer",)),
    ("classifier queue", ("classifier total", "-classifier infer")),
    ("onnxruntime", ("classifier infer",)),
    ("in process", ("alone",)),
    ("beside onnxruntime", ("rejection total", "-classifier infer")),
)
"""Columns of the single requests, each a sum of mean times. `in process` is onnxruntime without a server, one worker
alone; `beside onnxruntime` is what the server adds to its run."""


def text(result: Result) -> str:
    """Everything that was measured, for a terminal."""
    parts = [f"\n{heading}\n{table.text()}" for heading, table in sections(result)]
    return "\n".join([*parts, *(f"warning: {warning}" for warning in warnings(result))])


def sections(result: Result) -> list[tuple[str, Table]]:
    """Headings, and tables."""
    found = []
    for model, precision in pairs(result):
        for name, entry in result["workloads"].items():
            if lines := comparison(result, model, precision, name):
                found.append((f"{model}, {precision}: {entry['title']}", Table(COLUMNS, lines)))
    if times := singles(result):
        heads = ("model", "precision", "workload", *(name for name, _ in SINGLE))
        shown = [[*line[:3], *(f"{value:.2f}" for value in line[3:])] for line in times]
        found.append(("Single requests: where their time goes, means in milliseconds", Table(heads, shown, (0, 1, 2))))
    if result["scenarios"]:
        heads = ("scenario", "model", "case", "texts/s", "p50 ms", "p99 ms", "also")
        found.append(("Scenarios", Table(heads, scenarios(result), (0, 1, 2, 6))))
    return found


def comparison(result: Result, model: str, precision: str, workload: str) -> list[list[str]]:
    """Rows for COLUMNS: closed loops of one workload, raw onnxruntime first."""
    found = rows(result)
    best = limit(found, model, precision, workload)
    cap = median(best, "texts_per_s")
    shown = [(f"{title(result, RAW)} ({best['layout']})", best)] if best and cap else []
    for system in systems(result):
        wanted = {"model": model, "precision": precision, "system": system, "workload": workload, "loop": "closed"}
        shown += [(title(result, system), row) for row in of(found, **wanted)]
    return [
        [
            name,
            str(row["concurrency"]),
            rate(row),
            number((median(row, "texts_per_s") or 0) / cap if cap else None, 2),
            *(number(median(row, "latency_ms", share), 1) for share in ("p50", "p99")),
            number(median(row, "cpu_ms_per_text"), 2),
            number(median(row, "memory_mb"), 0),
            # The largest of all rounds.
            number(row.get("difference", {}).get("max", {}).get("max"), 4),
            number(median(row, "difference", "mean"), 5),
        ]
        for name, row in shown
    ]


def rate(row: Row) -> str:
    """Texts a second, with half the range over the rounds, and whether requests failed."""
    value = row["texts_per_s"]
    around = (value["max"] - value["min"]) / 2 / value["median"] if row["rounds"] > 1 and value["median"] else None
    failed = " (failures)" if (median(row, "failed") or 0) > 0 else ""
    return number(value["median"], 1) + (f" ±{around:.0%}" if around is not None else "") + failed


def number(value: float | None, digits: int) -> str:
    """For a cell."""
    return "" if value is None else f"{value:,.{digits}f}"


def singles(result: Result) -> list[tuple[str | float, ...]]:
    """Model, precision, workload and the figures of SINGLE: this server with one caller, by Triton's own counts."""
    found, lines = rows(result), []
    for row in of(found, system=OURS, loop="closed", concurrency=1):
        alone = limit(found, row["model"], row["precision"], row["workload"], alone=True)
        times = {"seen": median(row, "latency_ms", "mean"), "alone": median(alone, "latency_ms", "mean")}
        for model in ("rejection", "tokenizer", "classifier"):
            times |= {f"{model} {kind}": median(row, "triton", model, kind) for kind in ("total", "infer")}
        if row["workload"] != "batch" and None not in times.values():
            sums = (
                sum((times[part.lstrip("-")] or 0.0) * (-1 if part.startswith("-") else 1) for part in parts)
                for _, parts in SINGLE
            )
            lines.append((row["model"], row["precision"], row["workload"], *sums))
    return lines


def scenarios(result: Result) -> list[list[str]]:
    """A row for each case of the scenarios that were run."""
    lines: list[list[str]] = []
    for name, entries in result["scenarios"].items():
        for entry in entries:
            for case, row, also in CASES[name](entry):
                latency = [number(median(row, "latency_ms", share), 2) for share in ("p50", "p99")]
                shown = [number(median(row, "texts_per_s"), 1), *latency, also]
                lines.append([name, f"{entry['model']}, {entry['precision']}", case, *shown])
    return lines


Cases = Sequence[tuple[str, Row, str]]


def _bursts(entry: Row) -> Cases:
    return [(f"{row['requests']} short at once, the last", row, "") for row in entry["rows"]]


def _callers(entry: Row) -> Cases:
    cpu = ((row, median(row, "caller_cpu_ms")) for row in entry["rows"])
    return [_at_load("", row, f"{spent_ms:.3f} ms of the caller's CPU each") for row, spent_ms in cpu]


def _guard(entry: Row) -> Cases:
    cpu = ((row, median(row, "cpu_ms_per_text")) for row in entry["rows"])
    return [_at_load("at ", row, f"{spent_ms:.2f} ms of the server's CPU a text") for row, spent_ms in cpu]


def _several(entry: Row) -> Cases:
    cpu = ((row, median(row, "cpu_ms_per_text")) for row in entry["rows"])
    return [_at_load("", row, f"{spent_ms:.2f} ms of the server's CPU a text") for row, spent_ms in cpu]


def _at_load(door: str, row: Row, spent: str) -> tuple[str, Row, str]:
    case = f"{door}{row['caller']}: {row['workload']}, {row['concurrency']} at once"
    return case, row, f"{spent}, {row['failed']} failed"


def _fairness(entry: Row) -> Cases:
    beside = f"p99 {entry['short_p99_to_longest']:.2f} times the median of a long one alone"
    return [
        ("512 tokens alone", {"latency_ms": {"p50": entry["longest_alone_p50_ms"]}}, ""),
        ("short alone", {"latency_ms": entry["short_quiet"]}, ""),
        ("short beside 512 tokens at 80% of capacity", {"latency_ms": entry["short_beside_long"]}, beside),
    ]


def _repeats(entry: Row) -> Cases:
    return [("one text, one caller", entry, f"{entry['cache_hits']:,} cache hits, {entry['executions']} executions")]


def _soak(entry: Row) -> Cases:
    grown = f"memory {entry['memory_growth']:+.2%} from {entry['settled_s']:.0f} s on"
    also = f"{entry['texts']:,} texts, {entry['failed']} failed, {grown}"
    return [(f"{entry['seconds'] / 60:.1f} minutes, {entry['concurrency']} callers", entry, also)]


def _growth(entry: Row) -> Cases:
    cases = [(f"{row['concurrency']} callers, mixed", row) for row in entry["callers"]]
    cases += [(f"8 callers, {row['tokens']} tokens", row) for row in entry["lengths"]]
    return [(case, row, f"{row['cpu_us_per_token']:.1f} us of the server's CPU a token") for case, row in cases]


CASES = {
    "bursts": _bursts,
    "callers": _callers,
    "guard": _guard,
    "several": _several,
    "fairness": _fairness,
    "repeats": _repeats,
    "soak": _soak,
    "growth": _growth,
}
