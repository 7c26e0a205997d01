"""The three files of a report: result.json with everything, seconds.csv for a spreadsheet, report.html for a person."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from load import page

_SERVER = (
    "queue_ms",
    "batch_size",
    "executions_per_s",
    "waiting",
    "failed_per_s",
    "cache_hits_per_s",
    "cpu_cores",
    "memory_mib",
)


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Write all three; `folder` is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(page.page(found), encoding="utf-8")
    with (folder / "seconds.csv").open("w", encoding="utf-8", newline="") as file:
        table = table_of(found)
        writer = csv.DictWriter(file, fieldnames=list(table[0]) if table else ["time_s"])
        writer.writeheader()
        writer.writerows(table)


def table_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a second, with the server's side of the same moment, and a column for each gRPC code."""
    codes = sorted({code for row in found["seconds"] for code in row["failed"]})
    samples = {round(sample["time_s"]): sample for sample in found["server"]}
    rows = []
    for row in found["seconds"]:
        # A sample tells of the second that it ends.
        sample = samples.get(round(row["time_s"]) + 1, {})
        plain = {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in row.items()
            if name != "failed"
        }
        rows.append(
            {
                **plain,
                **{code: row["failed"].get(code, 0) for code in codes},
                **{name: None if sample.get(name) is None else round(sample[name], 3) for name in _SERVER},
            }
        )
    return rows


def last(output: Path, settings: Mapping[str, Any], target: str) -> Path | None:
    """The newest earlier report of the same load on the same target, None if there is none."""
    for path in sorted(output.glob("*/result.json"), reverse=True):
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            if before["settings"] == settings and before["target"] == target:
                return path
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a report, or of another version
    return None
