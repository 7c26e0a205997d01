"""The three files of a report: result.json with everything, seconds.csv for a spreadsheet, report.html for a person."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from load import page


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Write all three; `folder` is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    with (folder / "seconds.csv").open("w", encoding="utf-8", newline="") as file:
        rows = table_of(found)
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["time_s"])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "report.html").write_text(page.page(found), encoding="utf-8")


def table_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a second, with the server's side of the same moment, and a column for each gRPC code."""
    codes = sorted({code for row in found["seconds"] for code in row["failed"]})
    samples = {round(sample["time_s"]): sample for sample in found["server"]}
    names = [name for name in next(iter(samples.values()), {}) if name != "time_s"]
    rows = []
    for second in found["seconds"]:
        # A sample tells of the second that it ends.
        sample = samples.get(round(second["time_s"]) + 1, {})
        row = {name: value for name, value in second.items() if name != "failed"}
        row |= {code: second["failed"].get(code, 0) for code in codes} | {name: sample.get(name) for name in names}
        rows.append({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()})
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
