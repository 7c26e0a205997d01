"""The figures of a run as a page of Markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.gpu.results import Results

Row = Mapping[str, Any]


def text(results: Results) -> str:
    """The page: machine, correctness, rates, the server, and one line that names the limit."""
    parts = [f"# GPU, {results.facts['date']}, commit {results.facts['commit']}"]
    if results.facts["dry"]:
        parts.append("A dry run on a processor with a tiny model: no figure of it says anything.")
    gpu = {key: value for kind in ("gpu", "provider", "ceiling", "machine") for entry in results.of("preflight", kind)
           for key, value in entry.items()}  # fmt: skip
    if "name" in gpu:
        parts.append(
            f"{gpu['name']}, driver {gpu['driver']}, {gpu['memory_gb']} GB; {gpu['cores']} cores, {gpu['processor']}; "
            f"onnxruntime {gpu.get('onnxruntime')}, PyTorch {gpu.get('torch')}. A product of two float16 matrices of "
            f"8192 reaches {gpu.get('product_tflops')} TFLOP/s, the data sheet says {gpu['datasheet_tflops']}."
        )
    gate = results.of("gate", "compared") + [entry for entry in results.of("gate", "failed") if "graph" in entry]
    parts += _table("Differences from PyTorch in float32", gate, {
        "graph": "graph", "largest logit": "largest_logit", "largest probability": "largest_probability",
        "mean probability": "mean_probability", "same label": "same_label", "alone or in a batch": "alone_or_in_batch",
        "": lambda entry: "" if entry["kind"] == "compared" else f"**failed** {entry.get('why', '')}",
    })  # fmt: skip
    ceiling = gpu.get("product_tflops")
    rates = [entry for section in ("onnxruntime", "torch") for entry in results.of(section, "rate")]
    parts += _table("Rates without a server", rates, {
        "graph": "graph", "inputs": "inputs", "beside": "turn", "texts": "workload", "rows": "rows", "tokens": "tokens",
        "ms": "ms", "texts/s": "texts_per_s", "tokens/s": "tokens_per_s", "TFLOP/s": "tflops",
        "of the ceiling": lambda entry: f"{entry['tflops'] / ceiling:.0%}" if ceiling else "",
    })  # fmt: skip
    for entry in results.of("onnxruntime", "kernels"):
        rows = [{"kernel": name, "ms": ms, "launches": count} for name, (ms, count) in entry["by_name"].items()]
        title = f"Where the GPU's time goes: {entry['graph']}, {entry['on_gpu_ms']} of {entry['ms']} ms"
        parts += _table(title, rows[:12], {"kernel": "kernel", "ms": "ms", "launches": "launches"})
    loads = results.of("served", "load")
    parts += _table("Behind Triton", loads, {
        "called": "door", "tokenizers": "tokenizers", "instances": "instances", "texts a request": "batch",
        "callers": "callers",
        "open loop": lambda entry: entry["rate"] or "", "texts/s": "texts_per_s", "p50 ms": "p50_ms",
        "p99 ms": "p99_ms", "failed": "failed", "texts an execution": "texts_per_execution", "its ms": "execution_ms",
        "GPU busy": "gpu_use",
        "CPU ms a text": lambda entry: _named(entry["cpu_ms_per_text"]), "busy": lambda entry: _named(entry["busy"]),
    })  # fmt: skip
    if loads:
        best = max(loads, key=lambda entry: entry["texts_per_s"])
        parts.append(
            f"**The limit**: {best['texts_per_s']} texts/s with {best['tokenizers']} tokenizer processes and "
            f"{best['instances']} classifier instances, calls to the {best['door']}; "
            f"what was busiest then is the {best['limit']} ({best['busy'][best['limit']]:.0%})."
        )
    parts += _table("Beside it, Text Embeddings Inference", results.of("tei", "load"), {
        "texts a request": "batch", "callers": "callers", "texts/s": "texts_per_s", "p50 ms": "p50_ms",
        "p99 ms": "p99_ms", "failed": "failed", "load generator busy": "generator_busy",
    })  # fmt: skip
    for entry in results.entries:
        if entry["kind"] in ("failed", "cut"):
            told = (entry["section"], entry["kind"], entry.get("graph"), entry.get("why"))
            parts.append("- " + ": ".join(filter(None, told)))
    return "\n\n".join(parts) + "\n"


def _table(title: str, rows: Sequence[Row], columns: Mapping[str, str | Callable[[Row], Any]]) -> list[str]:
    if not rows:
        return []
    lines = [f"## {title}", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = [row.get(column) if isinstance(column, str) else column(row) for column in columns.values()]
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    return ["\n".join(lines)]


def _named(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())
