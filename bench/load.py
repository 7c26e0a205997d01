"""The loops that send requests: closed (so many callers, each waits) and open (a constant rate, waited for or not)."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.contract import Caller
from bench.figures import Floats, Recorded, arrivals

LEAST_REQUESTS = 20
MOST_TIMES_LONGER = 4.0
"""A window goes on, up to so many times its length, until it has seen LEAST_REQUESTS answers."""
MOST_IN_FLIGHT = 4096
"""An open loop refuses to start more: memory, and a system that is so far behind is measured well enough."""

Mark = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be sent."""

    texts: Sequence[str]
    """Sent in this order, over and over."""
    seconds: float
    """Length of the window that is measured."""
    warm_s: float
    """How long the same load runs before the window."""
    batch: int = 1
    """Texts in a request."""
    concurrency: int = 0
    """Callers of a closed loop; 0 makes it an open loop."""
    rate: float = 0.0
    """Requests per second of an open loop."""
    drain_s: float = 60.0
    """How long answers are waited for after the window; what is missing then counts as failed."""


@dataclass(slots=True)
class Result:
    """What came of it."""

    recorded: Recorded
    cpu_s: float
    """CPU of the load generator within the window."""
    late_p99_ms: float
    """How much later than due the generator itself sent requests of an open loop."""
    answers: Floats
    """Probabilities [texts, labels] by index of the text, the ones furthest from `reference`; NaN where not asked."""


@dataclass(slots=True)
class _Recorder:
    load: Load
    call: Caller
    due: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    failed: int = 0
    error: str = ""
    given: list[tuple[int, NDArray[np.float32]]] = field(default_factory=list)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def send(self, due: float | None = None) -> None:
        texts, batch = self.load.texts, self.load.batch
        start = next(self.numbers) * batch % len(texts)
        sent = time.monotonic()
        try:
            answer = await self.call([texts[(start + offset) % len(texts)] for offset in range(batch)])
        except Exception as exc:  # every system fails in its own way, and a failure is a figure too
            self.fail(f"{type(exc).__name__}: {exc}")
            # Refused at once, again and again: not to be a busy loop.
            await asyncio.sleep(0.01)
            return
        self.done.append(time.monotonic())
        self.due.append(sent if due is None else due)
        self.late.append(sent - self.due[-1])
        self.given.append((start, answer))

    def fail(self, words: str, count: int = 1) -> None:
        self.failed += count
        self.error = self.error or words[:500]

    async def drain(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        missing = (await asyncio.wait(tasks, timeout=self.load.drain_s))[1] if tasks else ()
        if missing:
            self.fail(f"no answer within {self.load.drain_s:g} s after the window", len(missing))

    def recorded(self, begin: float, end: float) -> Recorded:
        texts = np.full(len(self.due), self.load.batch, np.int64)
        return Recorded(np.asarray(self.due), np.asarray(self.done), texts, begin, end, self.failed, self.error)

    def worst_answers(self, reference: Floats) -> Floats:
        """For each text the answer furthest from the reference; where none is known, any."""
        answers = np.full(reference.shape, np.nan)
        worst = np.full(len(reference), -1.0)
        for start, given in self.given:
            rows = (start + np.arange(len(given))) % len(reference)
            gap = np.nan_to_num(np.abs(given - reference[rows]).max(axis=1))
            # A batch holds a text at most once unless there are fewer texts than that.
            further = gap > worst[rows]
            answers[rows[further]], worst[rows[further]] = given[further], gap[further]
        return answers


async def run(call: Caller, load: Load, reference: Any, mark: Mark) -> Result:
    """Send the load; `mark` is awaited as the window begins ("begin") and ends ("end")."""
    recorder = _Recorder(load, call)
    tasks: set[asyncio.Task[None]] = set()
    try:
        begin, end, cpu_s = await (_closed if load.concurrency else _open)(recorder, tasks, mark)
    finally:
        for task in tasks:
            task.cancel()
    late_ms = float(np.percentile(recorder.late, 99)) * 1000 if recorder.late else 0.0
    return Result(recorder.recorded(begin, end), cpu_s, late_ms, recorder.worst_answers(reference))


async def _closed(recorder: _Recorder, tasks: set[asyncio.Task[None]], mark: Mark) -> tuple[float, float, float]:
    load, stopping = recorder.load, False

    async def caller() -> None:
        while not stopping:
            await recorder.send()

    tasks |= {asyncio.create_task(caller()) for _ in range(load.concurrency)}
    await asyncio.sleep(load.warm_s)
    await mark("begin")
    begin, cpu_s, answered = time.monotonic(), time.process_time(), len(recorder.done)
    await asyncio.sleep(load.seconds)
    while (
        len(recorder.done) - answered < LEAST_REQUESTS
        and not recorder.failed
        and time.monotonic() - begin < MOST_TIMES_LONGER * load.seconds
    ):
        await asyncio.sleep(load.seconds / 10)
    end, cpu_s = time.monotonic(), time.process_time() - cpu_s
    await mark("end")
    stopping = True
    await recorder.drain(tasks)
    return begin, end, cpu_s


async def _open(recorder: _Recorder, tasks: set[asyncio.Task[None]], mark: Mark) -> tuple[float, float, float]:
    load, start = recorder.load, time.monotonic() + 0.05
    begin, end = start + load.warm_s, start + load.warm_s + load.seconds
    beginning: asyncio.Future[None] | None = None
    cpu_s = time.process_time()
    for offset in arrivals(load.rate, load.warm_s + load.seconds):
        due = start + float(offset)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if beginning is None and due >= begin:
            # Not waited for: what is due is due.
            beginning = asyncio.ensure_future(mark("begin"))
            cpu_s = time.process_time()
        if len(tasks) >= MOST_IN_FLIGHT:
            recorder.fail(f"{MOST_IN_FLIGHT} requests were waiting for an answer already")
            continue
        task = asyncio.create_task(recorder.send(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.sleep(max(0.0, end - time.monotonic()))
    if beginning is not None:
        await beginning
    cpu_s = time.process_time() - cpu_s
    await mark("end")
    await recorder.drain(set(tasks))
    return begin, end, cpu_s
