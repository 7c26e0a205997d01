"""A good caller beside the bad ones: `rejection_client`, whose every answer is compared with one obtained before."""

from __future__ import annotations

import collections
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from faults.requests import TEXTS
from rejection_client import ClientConfig, RejectionClient, RejectionError

__all__ = ["Good", "serve_well"]

DEADLINE_S = 20.0
PAUSE_S = 0.02
"""Between two calls, so that it is the others who load the server."""


@dataclass
class Good:
    """What the good callers met."""

    calls: int = 0
    wrong: int = 0
    failed: collections.Counter[str] = field(default_factory=collections.Counter)
    latencies_s: list[float] = field(default_factory=list)


def serve_well(address: str, callers: int, seed: int, reports: Any, stop: Any) -> None:
    """Call until `stop`; then what happened goes into `reports`, a queue. Before the first call: the word "ready"."""
    # No retries: a call that fails once counts.
    config = ClientConfig(timeout_s=DEADLINE_S, max_attempts=1)
    with RejectionClient(address, config=config) as client:
        expected = {text: client.classify(text) for text in TEXTS}
        reports.put("ready")
        good = [Good() for _ in range(callers)]
        threads = [
            threading.Thread(target=_call, args=(client, expected, random.Random(seed + number), good[number], stop))
            for number in range(callers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    total = Good()
    for one in good:
        total.calls += one.calls
        total.wrong += one.wrong
        total.failed += one.failed
        total.latencies_s += one.latencies_s
    reports.put(total)


def _call(client: RejectionClient, expected: dict[str, Any], rng: random.Random, good: Good, stop: Any) -> None:
    while not stop.is_set():
        texts = rng.choices(TEXTS, k=rng.randint(1, 4))
        begin = time.monotonic()
        good.calls += 1
        try:
            found = [client.classify(texts[0])] if len(texts) == 1 else client.classify_many(texts)
        except RejectionError as exc:
            good.failed[f"{type(exc).__name__}: {exc}"[:200]] += 1
            stop.wait(PAUSE_S)
            continue
        good.latencies_s.append(time.monotonic() - begin)
        good.wrong += found != [expected[text] for text in texts]
        stop.wait(PAUSE_S)
