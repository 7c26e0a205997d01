"""Times the forms of a served graph against each other and against onnxruntime row by row, in this process.

    .venv/bin/python -m bench.graph_forms padded.onnx --heads 12 --json forms.json

One thread; the forms take turns, and the thread's own processor time counts, so that what else the machine does
disturbs less. A figure is the median over the repeats, in milliseconds per text, and in brackets how many times as fast
as `raw` it is: onnxruntime's own dynamic int8 (or float32), each row alone.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from bench.compose import target_lengths
from bench.models import quantize, session
from bench.raw import run_once
from rejection_server.graph.packed import to_packed
from rejection_server.graph.quantize import quantize_per_token
from rejection_server.graph.ragged import to_ragged
from rejection_server.onnx_backend.token_ids import TokenIds

Rows = list[list[int]]
Run = Callable[[Rows], object]

SHORT_TOKENS = 13
VOCABULARY = 30_000
LONGEST = 512


def loads() -> dict[str, Rows]:
    """Batches by name; mixed lengths are evenly spread quantiles, in random order, so that each batch is typical."""
    random = np.random.default_rng(0)

    def rows(lengths: Iterable[int]) -> Rows:
        return [random.integers(10, VOCABULARY, min(LONGEST, length)).tolist() for length in lengths]

    batches = {f"short x{size}": rows([SHORT_TOKENS] * size) for size in (1, 4, 16)}
    return batches | {f"mixed x{size}": rows(random.permutation(target_lengths(size))) for size in (1, 8, 32, 64)}


def forms(path: Path, heads: int, pad_id: int, *, int8: bool) -> dict[str, Run]:
    """What is compared."""
    model = onnx.load(path)
    raw, padded = path, model
    if int8:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder, "raw.onnx")
            quantize(path, raw)
            padded = quantize_per_token(onnx.load(path))
            one_by_one = session(raw)
    else:
        one_by_one = session(raw)
    runs: dict[str, Run] = {"raw": lambda rows: [run_once(one_by_one, [row]) for row in rows]}
    accepted = TokenIds(VOCABULARY, LONGEST)
    graphs = {form: to_ragged(padded, form=form, accepted=accepted, pad_id=pad_id) for form in ("padded", "loop")}
    graphs["packed"] = to_packed(model, heads=heads, int8=int8)
    return runs | {name: partial(run_once, session(graph.SerializeToString())) for name, graph in graphs.items()}


def measure(runs: dict[str, Run], rows: Rows, repeats: int) -> dict[str, float]:
    """Median milliseconds of a text, by form."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            begin_s = time.thread_time()
            run(rows)
            if repeat:  # the first is warm-up
                times[name].append((time.thread_time() - begin_s) * 1000 / len(rows))
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
    parser.add_argument("--only", default="", help="loads whose name contains this")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    result: dict[str, dict[str, dict[str, float]]] = {}
    for precision in arguments.precision or ("int8", "fp32"):
        runs = forms(arguments.model, arguments.heads, arguments.pad_id, int8=precision == "int8")
        runs = {name: run for name, run in runs.items() if name not in arguments.skip}
        sys.stdout.write(f"{precision:<12}{''.join(f'{name:>18}' for name in runs)}\n")
        for load, rows in loads().items():
            if arguments.only in load:
                figures = result.setdefault(precision, {})[load] = measure(runs, rows, arguments.repeats)
                cells = (f"{value:>9.2f} ({figures['raw'] / value:4.2f}x)" for value in figures.values())
                sys.stdout.write(f"{load:<12}{''.join(f'{cell:>18}' for cell in cells)}\n")
                sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
