"""Times the forms of a served graph against each other and against onnxruntime row by row, in this process.

    python bench/graph_forms.py build/bundled/padded.onnx --heads 12 --json forms.json

One thread; the forms take turns, and the thread's own processor time counts, so that what else the machine does
disturbs less. A figure is the median over the repeats, in milliseconds per text, and in brackets how many times as fast
as `raw` it is: onnxruntime's own dynamic int8 (or float32), each row alone.
"""

# ruff: noqa: T201 (a command prints)

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from rejection_server.graph.packed import to_packed
from rejection_server.graph.quantize import quantize_per_token
from rejection_server.graph.ragged import to_ragged

Rows = list[NDArray[np.int64]]
Run = Callable[[Rows], object]

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MIXED_TOKENS = (8, 15, 72, 147, 245, 512, 512)
SHORT_TOKENS = 13
MIXED_BATCHES = (1, 8, 32, 64)
SHORT_BATCHES = (1, 4, 16)


def loads(vocabulary: int) -> dict[str, Rows]:
    """Batches by name; mixed lengths are evenly spread quantiles, in random order, so that each batch is typical."""
    random = np.random.default_rng(0)

    def rows(lengths: Any) -> Rows:
        return [random.integers(10, vocabulary, int(length)) for length in lengths]

    batches = {f"short x{size}": rows([SHORT_TOKENS] * size) for size in SHORT_BATCHES}
    for size in MIXED_BATCHES:
        quantiles = (random.permutation(size) + 0.5) / size
        batches[f"mixed x{size}"] = rows(np.interp(quantiles, SHARES, MIXED_TOKENS))
    return batches


def session(model: ModelProto | str) -> Any:
    """An onnxruntime session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model if isinstance(model, str) else model.SerializeToString(), options)


def row_by_row(runner: Any) -> Run:
    """Runs a padded model on each row alone."""
    given = {value.name for value in runner.get_inputs()}

    def run(rows: Rows) -> None:
        for row in rows:
            feed = {"input_ids": row[None], "attention_mask": np.ones((1, len(row)), np.int64)}
            feed["token_type_ids"] = np.zeros((1, len(row)), np.int64)
            runner.run(None, {name: value for name, value in feed.items() if name in given})

    return run


def ragged(runner: Any) -> Run:
    """Runs a served form on all rows at once."""

    def run(rows: Rows) -> object:
        lengths = np.asarray([[len(row)] for row in rows], np.int32)
        return runner.run(["logits"], {"input_ids": np.concatenate(rows), "sequence_lengths": lengths})

    return run


def forms(path: Path, heads: int, pad_id: int, *, int8: bool) -> dict[str, Run]:
    """What is compared."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory() as folder:
            raw = str(Path(folder) / "raw.onnx")
            quantize_dynamic(model, raw, weight_type=QuantType.QInt8)
            runs = {"raw": row_by_row(session(raw))}
        model = onnx.load(path)
        padded = quantize_per_token(model)
    else:
        runs = {"raw": row_by_row(session(model))}
        padded = model
    for form in ("padded", "loop"):
        runs[form] = ragged(session(to_ragged(padded, form=form, pad_id=pad_id)))
    runs["packed"] = ragged(session(to_packed(model, heads=heads, int8=int8)))
    return runs


def measure(runs: dict[str, Run], rows: Rows, repeats: int) -> dict[str, float]:
    """Median milliseconds of a text, by form."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            begin = time.thread_time()
            run(rows)
            if repeat:  # the first is warm-up
                times[name].append((time.thread_time() - begin) * 1000 / len(rows))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="padded float32 ONNX classifier")
    parser.add_argument("--heads", type=int, required=True, help="attention heads")
    parser.add_argument("--pad-id", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("int8", "fp32"), action="append", help="both, unless given")
    parser.add_argument("--skip", action="append", default=[], help="a form to leave out, such as padded")
    parser.add_argument("--only", help="loads whose name contains this")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    result: dict[str, dict[str, dict[str, float]]] = {}
    for precision in arguments.precision or ("int8", "fp32"):
        print(f"{precision}: building", file=sys.stderr)
        runs = forms(arguments.model, arguments.heads, arguments.pad_id, int8=precision == "int8")
        runs = {name: run for name, run in runs.items() if name not in arguments.skip}
        print(f"{precision:<12}" + "".join(f"{name:>18}" for name in runs))
        for load, rows in loads(vocabulary=30_000).items():
            if arguments.only and arguments.only not in load:
                continue
            figures = measure(runs, rows, arguments.repeats)
            result.setdefault(precision, {})[load] = figures
            cells = (f"{value:>9.2f} ({figures['raw'] / value:4.2f}x)" for value in figures.values())
            print(f"{load:<12}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
