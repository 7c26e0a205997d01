"""What serving adds to a single request: for each text, Triton's own time of the ensemble less the raw runtime's.

Between two requests Triton's statistics tell how long the one in between took in each model; then the same text runs
through the same graph in this process. So there is a figure for each text, and a median of figures.
"""

import asyncio
import time
from typing import Any

import numpy as np

from bench import raw
from bench.measure import Prepared
from bench.models import session
from bench.plan import Workload
from bench.triton import MODELS, Counts, Running, Statistics, since

WARM = 5
SETTLE_S = 0.5


def overhead(running: Running, prepared: Prepared, workload: Workload, precision: str, texts: int) -> dict[str, Any]:
    """Medians over `texts` single requests, milliseconds."""
    graph = prepared.model.repositories[precision] / "classifier" / "1" / "model.onnx"
    return asyncio.run(_measure(running, prepared, workload, session(graph), texts))


async def _settled(statistics: Statistics, before: Counts) -> Counts:
    """What the one request did: Triton counts it in each model a moment after it has answered."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        window = since(before, statistics.counts())
        if all(window[name].requests for name in MODELS) or time.monotonic() > deadline:
            return window
        await asyncio.sleep(0.001)


async def _measure(running: Running, prepared: Prepared, workload: Workload, model: Any, texts: int) -> dict[str, Any]:
    ids = prepared.ids[workload.name]
    columns: dict[str, list[float]] = {}
    statistics = Statistics(running.address)
    try:
        async with running.target.caller() as call:
            for index in range(WARM + texts):
                text = index % len(workload.texts)
                before = statistics.counts()
                begin = time.perf_counter()
                await call([workload.texts[text]])
                client_ms = (time.perf_counter() - begin) * 1000
                window = await _settled(statistics, before)
                begin = time.perf_counter()
                raw.run_once(model, [ids[text]], served=True)
                raw_ms = (time.perf_counter() - begin) * 1000
                if index < WARM:
                    continue
                parts = {f"{name}_ms": counts.total_ns / 1e6 for name, counts in window.items() if counts.requests}
                classifier = window["classifier"]
                parts |= {
                    "classifier_infer_ms": classifier.infer_ns / 1e6,
                    "tokenizer_infer_ms": window["tokenizer"].infer_ns / 1e6,
                    "raw_ms": raw_ms,
                    "client_ms": client_ms,
                }
                ensemble = parts.get("rejection_ms", 0.0)
                parts["overhead_ms"] = ensemble - raw_ms
                parts["tokenizer_hop_ms"] = parts["tokenizer_ms"] - parts["tokenizer_infer_ms"]
                parts["classifier_hop_ms"] = parts["classifier_ms"] - parts["classifier_infer_ms"]
                parts["ensemble_hop_ms"] = ensemble - parts["tokenizer_ms"] - parts["classifier_ms"]
                parts["network_and_client_ms"] = client_ms - ensemble
                for name, value in parts.items():
                    columns.setdefault(name, []).append(value)
    finally:
        statistics.close()
    return {"texts": texts, **{name: round(float(np.median(values)), 4) for name, values in columns.items()}}
