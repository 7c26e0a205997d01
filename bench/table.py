"""A result as text, for the terminal and for Markdown."""

from collections.abc import Sequence

from bench.summary import COLUMNS, Result, comparison, pairs, warnings

OVERHEAD = (
    ("server-side overhead, ms", "overhead_ms"),
    ("of that tokenizing", "tokenizer_infer_ms"),
    ("tokenizer hop", "tokenizer_hop_ms"),
    ("classifier hop", "classifier_hop_ms"),
    ("ensemble", "ensemble_hop_ms"),
    ("classifier in Triton", "classifier_infer_ms"),
    ("classifier in process", "raw_ms"),
    ("network and caller", "network_and_client_ms"),
)


def text(result: Result) -> str:
    """Everything that was measured, for a terminal."""
    parts = []
    for heading, lines in sections(result):
        parts.append(f"\n{heading}\n{aligned(lines)}")
    parts += [f"warning: {warning}" for warning in warnings(result)]
    return "\n".join(parts)


def sections(result: Result) -> list[tuple[str, list[list[str]]]]:
    """Headings, and tables with a header row."""
    found = []
    for model, precision in pairs(result):
        for name, entry in result["workloads"].items():
            lines = comparison(result, model, precision, name)
            if lines:
                found.append((f"{model}, {precision}: {entry['title']}", [list(COLUMNS), *lines]))
    if result["overhead"]:
        found.append(("Single requests: medians, milliseconds", overhead_rows(result)))
    found += scenario_tables(result)
    return found


def overhead_rows(result: Result) -> list[list[str]]:
    """Where a single request's time goes: a row for each start of the server."""
    rows = [["model", "precision", "workload", *(name for name, _ in OVERHEAD)]]
    for entry in result["overhead"]:
        values = [f"{entry[key]:.2f}" if key in entry else "" for _, key in OVERHEAD]
        rows.append([entry["model"], entry["precision"], entry["workload"], *values])
    return rows


def scenario_tables(result: Result) -> list[tuple[str, list[list[str]]]]:
    """The scenarios that were run."""
    scenarios, found = result["scenarios"], []
    if "fairness" in scenarios:
        rows = [
            ["model", "precision", "longest alone p50, ms", "short p99 alone, ms", "short p99 beside long, ms", "ratio"]
        ]
        rows += [
            [
                entry["model"],
                entry["precision"],
                f"{entry['longest_alone_p50_ms']:.1f}",
                f"{entry['short_quiet']['p99']:.1f}",
                f"{entry['short_beside_long']['p99']:.1f}",
                f"{entry['short_p99_to_longest']:.2f}",
            ]
            for entry in scenarios["fairness"]
        ]
        found.append(("Fairness: short texts while 512-token texts flow at 80% of capacity", rows))
    if "bursts" in scenarios:
        rows = [["model", "precision", "requests at once", "last answer p50, ms", "p90, ms", "p99, ms"]]
        rows += [
            [
                entry["model"],
                entry["precision"],
                str(row["requests"]),
                *(f"{row['latency_ms'][share]:.1f}" for share in ("p50", "p90", "p99")),
            ]
            for entry in scenarios["bursts"]
            for row in entry["rows"]
        ]
        found.append(("Bursts: a few short texts at the same moment, then a pause", rows))
    for entry in scenarios.get("callers", []):
        rows = [
            ["caller", "workload", "callers", "texts/s", "p50 ms", "p99 ms", "caller's CPU, ms a request", "failed"]
        ]
        rows += [
            [
                row["caller"],
                row["workload"],
                str(row["concurrency"]),
                f"{row['texts_per_s']:.1f}",
                *(f"{row['latency_ms'][share]:.2f}" for share in ("p50", "p99")),
                f"{row['caller_cpu_ms']:.3f}",
                str(row["failed"]),
            ]
            for row in entry["rows"]
        ]
        found.append((f"The same loads from C++ and from Python: {entry['model']}, {entry['precision']}", rows))
    if "repeats" in scenarios:
        rows = [["model", "precision", "requests", "cache hits", "executions", "p50 ms", "p99 ms"]]
        rows += [
            [
                entry["model"],
                entry["precision"],
                *(f"{entry[name]:,}" for name in ("requests", "cache_hits", "executions")),
                *(f"{entry['latency_ms'][share]:.2f}" for share in ("p50", "p99")),
            ]
            for entry in scenarios["repeats"]
        ]
        found.append(("Repeats: one text again and again, one caller, the response cache on", rows))
    if "soak" in scenarios:
        rows = [["model", "precision", "minutes", "texts", "failed", "memory from the first minute to the end"]]
        rows += [
            [
                entry["model"],
                entry["precision"],
                f"{entry['seconds'] / 60:.1f}",
                f"{entry['texts']:,}",
                str(entry["failed"]),
                f"{entry['memory_growth']:+.2%}",
            ]
            for entry in scenarios["soak"]
        ]
        found.append(("Soak at full load", rows))
    for entry in scenarios.get("growth", []):
        for kind, name in (("callers", "concurrency"), ("lengths", "tokens")):
            rows = [
                [
                    kind if kind == "callers" else "tokens a text",
                    "texts/s",
                    "tokens/s",
                    "CPU us/token",
                    "p50 ms",
                    "p99 ms",
                ]
            ]
            rows += [
                [
                    str(row[name]),
                    f"{row['texts_per_s']:.1f}",
                    f"{row['tokens_per_s']:,.0f}",
                    f"{row['cpu_us_per_token']:.1f}",
                    *(f"{row['latency_ms'].get(share, float('nan')):.1f}" for share in ("p50", "p99")),
                ]
                for row in entry[kind]
            ]
            found.append((f"Growth with {kind}: {entry['model']}, {entry['precision']}", rows))
    return found


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, the first being the header."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ruler, *body))
