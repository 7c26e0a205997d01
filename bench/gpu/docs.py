"""The GPU's tables in `docs/benchmarks.md`: of results, none typed by hand. These are kept beside the page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.docs import DocsError
from load.tables import Table

BEGIN = "<!-- written by scripts/bench gpu --docs: begin -->\n"
END = "<!-- end of the GPU's tables -->\n"
PACKED, PADDED = "PyTorch, varlen, compiled", "PyTorch, sdpa, padded"
COMPARED_AT = 8192
LEFT_OUT = ((32, 64), (1, 32), (1, 8), (1, 128))
"""Loads, texts in a request and callers, that the page does not show."""

Entry = Mapping[str, Any]


def write(results: Sequence[Path], page: Path) -> Path:
    """Write the tables between the marks in `page`, and the results beside it as `gpu-1.json` and so on; returns it.

    Without results those that are there are taken. Raises DocsError where there are none, or no marks.
    """
    folder = page.with_suffix("")
    given = [json.loads(path.read_text(encoding="utf-8")) for path in results or sorted(folder.glob("gpu-*.json"))]
    before, found, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not given or not found or not ended:
        raise DocsError(f"{page} needs results, and a place for them: the lines {BEGIN.strip()} and {END.strip()}")
    for old in folder.glob("gpu-*.json"):
        old.unlink()
    for number, result in enumerate(given, 1):
        lines = ",\n".join(json.dumps(entry) for entry in result["entries"])
        facts = json.dumps({name: value for name, value in result.items() if name != "entries"})
        (folder / f"gpu-{number}.json").write_text(f'{facts[:-1]}, "entries": [\n{lines}]}}\n', encoding="utf-8")
    page.write_text(before + BEGIN + text(given) + END + after, encoding="utf-8")
    return page


def text(given: Sequence[Mapping[str, Any]]) -> str:
    """What stands between the marks."""
    entries = [entry for result in given for entry in result["entries"]]
    facts = {name: value for kind in ("gpu", "provider", "ceiling") for entry in _of(entries, "preflight", kind)
             for name, value in entry.items()}  # fmt: skip
    machine = next(iter(_of(entries, "preflight", "machine")), {})
    runs = "; ".join(f"{result['date']}, commit {result['commit'] or 'unknown'}" for result in given)
    lines = [
        f"{facts['name']}, driver {facts['driver']}, {machine['cores']} cores ({machine['processor']}), onnxruntime "
        f"{facts['onnxruntime']}, PyTorch {facts['torch']}; {runs}. A product of two float16 matrices of 8192 reaches "
        f"{facts['product_tflops']:.0f} TFLOP/s there (data sheet: {facts['datasheet_tflops']:.0f}).",
    ]
    titled = (
        ("Differences from PyTorch in float32, three sets of rows", _differences(entries)),
        ("Without a server: thousands of tokens a second, and in brackets the share of that product's TFLOP/s",
         _rates(entries, facts["product_tflops"])),
        (f"The served graph's speed in turns with other forms, batches of {COMPARED_AT} tokens: how many times as fast",
         _forms(entries)),
        ("Behind Triton, mixed lengths, in the last of these runs", _served(given)),
    )  # fmt: skip
    for title, table in titled:
        if table.rows:
            lines += ["", f"{title}:", "", table.markdown()]
    return "\n".join(lines) + "\n"


def _of(entries: Sequence[Entry], section: str, kind: str) -> list[Entry]:
    return [entry for entry in entries if (entry["section"], entry["kind"]) == (section, kind)]


def _differences(entries: Sequence[Entry]) -> Table:
    names = ("largest_logit", "largest_probability", "mean_probability", "same_label")
    rows = [[entry["graph"], *(f"{entry[name]:g}" for name in names)] for entry in _of(entries, "gate", "compared")]
    return Table(["graph", "largest, logit", "largest, probability", "mean, probability", "same label"], rows)


def _rates(entries: Sequence[Entry], ceiling: float) -> Table:
    """The served graph, and PyTorch's two ways, by batch."""
    served = [
        entry for entry in _of(entries, "onnxruntime", "rate") if "turn" not in entry and "on the" in entry["inputs"]
    ]
    beside = _of(entries, "torch", "rate")
    rows = []
    for entry in served:
        cells = [entry["workload"], str(entry["tokens"]), str(entry["rows"])]
        same = {other["graph"]: other for other in beside
                if (other["workload"], other["tokens"]) == (entry["workload"], entry["tokens"])}  # fmt: skip
        for one in (entry, same.get(PACKED), same.get(PADDED)):
            cells.append(f"{one['tokens_per_s'] / 1000:,.0f} ({one['tflops'] / ceiling:.0%})" if one else "")
        rows.append(cells)
    return Table(["rows", "tokens", "texts", "served graph, fp16", PACKED, PADDED], rows)


def _forms(entries: Sequence[Entry]) -> Table:
    """Each other graph's time over that of the served one, which took its turn beside it."""
    turns = [entry for entry in _of(entries, "onnxruntime", "rate") if "turn" in entry]
    found: dict[str, dict[str, float]] = {}
    for entry in turns:
        if entry["graph"] == entry["turn"]:
            other = next(one for one in turns if one["turn"] == entry["turn"] and one["graph"] != entry["turn"]
                         and one["workload"] == entry["workload"])  # fmt: skip
            found.setdefault(entry["turn"], {})[entry["workload"]] = entry["ms"] / other["ms"]
    workloads = list(dict.fromkeys(entry["workload"] for entry in turns))
    return Table(
        ["than", *workloads], [[name, *(f"{of[load]:.2f}" for load in workloads)] for name, of in found.items()]
    )


def _served(given: Sequence[Mapping[str, Any]]) -> Table:
    """The loads of the last result that has any: earlier ones are of other code."""
    entries = next((found for result in reversed(given) if (found := _of(result["entries"], "served", "load"))), [])
    heads = ["called", "tokenizers", "instances", "texts a request", "callers", "texts/s", "p50 / p99 ms", "failed",
             "texts an execution", "CPU ms a text", "busiest"]  # fmt: skip
    rows = []
    for entry in entries:
        if (entry["batch"], entry["callers"]) in LEFT_OUT:
            continue
        callers = str(entry["callers"] or f"open loop, {entry['rate']:,.0f}/s")
        counts = [entry.get("door", "triton"), entry["tokenizers"], entry["instances"], entry["batch"], callers]
        busiest = f"{entry['limit']} {entry['busy'][entry['limit']]:.0%}"
        rows.append([
            *map(str, counts), f"{entry['texts_per_s']:,.0f}", f"{entry['p50_ms']:.1f} / {entry['p99_ms']:.1f}",
            f"{entry['failed']:,}", f"{entry['texts_per_execution']:.0f}",
            f"{sum(entry['cpu_ms_per_text'].values()):.2f}", busiest,
        ])  # fmt: skip
    return Table(heads, rows)
