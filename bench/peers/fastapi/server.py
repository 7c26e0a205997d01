"""FastAPI in front of a `transformers` pipeline, run by uvicorn with a worker process for each core.

Each worker computes on one thread, one request at a time: threads that compete for a core only slow each other down.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import torch
from fastapi import Body, FastAPI
from transformers import pipeline

torch.set_num_threads(1)
torch.set_num_interop_threads(1)
classifier = pipeline("text-classification", model=os.environ["BENCH_PEER_CHECKPOINT"], device="cpu", top_k=None)
one_at_a_time = ThreadPoolExecutor(1)
app = FastAPI()


@app.post("/classify")  # type: ignore[untyped-decorator]  # fastapi is in the peer's own environment
async def classify(texts: Annotated[list[str], Body(embed=True)]) -> list[list[dict[str, str | float]]]:
    """Each text's labels with their scores."""
    return await asyncio.get_running_loop().run_in_executor(one_at_a_time, _classify, texts)


def _classify(texts: list[str]) -> Any:
    # batch_size stays 1, which the library's documentation recommends on a CPU.
    return classifier(texts, truncation=True)
