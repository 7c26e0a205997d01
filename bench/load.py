"""The loops that send requests: closed (so many callers, each waits) and open (a constant rate, waited for or not)."""

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.contract import Caller
from bench.figures import Recorded, arrivals

LEAST_REQUESTS = 20
MOST_TIMES_LONGER = 4.0
"""A window goes on, up to so many times its length, until it has seen LEAST_REQUESTS answers."""
MOST_IN_FLIGHT = 4096
"""An open loop refuses to start more: memory, and a system that is so far behind is measured well enough."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be sent."""

    texts: Sequence[str]
    """Sent in this order, over and over."""
    batch: int
    """Texts in a request."""
    seconds: float
    """Length of the window that is measured."""
    warm_s: float
    """How long the same load runs before the window."""
    concurrency: int = 0
    """Callers of a closed loop; 0 makes it an open loop."""
    rate: float = 0.0
    """Requests per second of an open loop."""
    drain_s: float = 60.0
    """How long answers are waited for after the window; what is missing then counts as failed."""
    first: int = 0
    """Index of the first text."""


@dataclass(slots=True)
class Result:
    """What came of it."""

    recorded: Recorded
    begin: float
    """The window, seconds of `time.monotonic`."""
    end: float
    cpu_s: float
    """CPU of the load generator within the window."""
    late_p99_ms: float
    """How much later than due the generator itself sent requests of an open loop."""
    answers: Any = None
    """Probabilities [texts, labels] by index of the text, the ones furthest from `reference`; NaN where not asked."""


class _Recorder:
    def __init__(self, load: Load, reference: Any) -> None:
        self.load = load
        self.due: list[float] = []
        self.done: list[float] = []
        self.late: list[float] = []
        self.failed = 0
        self.error = ""
        self.given: list[tuple[int, Any]] = []
        self.reference = reference
        self._requests = self._in_order()

    def _in_order(self) -> Iterator[tuple[int, list[str]]]:
        texts, batch = self.load.texts, self.load.batch
        for number in itertools.count():
            start = (self.load.first + number * batch) % len(texts)
            yield start, [texts[(start + offset) % len(texts)] for offset in range(batch)]

    async def send(self, call: Caller, due: float | None) -> None:
        start, texts = next(self._requests)
        sent = time.monotonic()
        try:
            answer = await call(texts)
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # every system fails in its own way, and a failure is a figure too
            self.failed += 1
            self.error = self.error or f"{type(exc).__name__}: {exc}"[:500]
            # Refused at once, again and again: not to be a busy loop.
            await asyncio.sleep(0.01)
            return
        self.done.append(time.monotonic())
        self.due.append(sent if due is None else due)
        self.late.append(0.0 if due is None else sent - due)
        self.given.append((start, answer))

    def recorded(self) -> Recorded:
        return Recorded(
            due=np.asarray(self.due),
            done=np.asarray(self.done),
            texts=np.full(len(self.due), self.load.batch, np.int64),
            failed=self.failed,
            error=self.error,
        )

    def worst_answers(self) -> Any:
        """For each text the answer furthest from the reference; where none is known, any."""
        if not self.given:
            return None
        count, labels = len(self.load.texts), self.given[0][1].shape[1]
        answers = np.full((count, labels), np.nan)
        worst = np.full(count, -1.0)
        for start, given in self.given:
            rows = (start + np.arange(len(given))) % count
            gap = np.abs(given - self.reference[rows]).max(axis=1)
            gap = np.where(np.isnan(gap), 0.0, gap)
            # A batch holds a text at most once unless there are fewer texts than that.
            further = gap > worst[rows]
            answers[rows[further]], worst[rows[further]] = given[further], gap[further]
        return answers


Mark = Callable[[str], Coroutine[Any, Any, None]]


async def run(call: Caller, load: Load, reference: Any, mark: Mark) -> Result:
    """Send the load; `mark` is awaited as the window begins ("begin") and ends ("end")."""
    recorder = _Recorder(load, reference)
    if load.concurrency:
        begin, end, cpu_s = await _closed(call, load, recorder, mark)
    else:
        begin, end, cpu_s = await _open(call, load, recorder, mark)
    late_ms = float(np.percentile(recorder.late, 99)) * 1000 if recorder.late else 0.0
    return Result(recorder.recorded(), begin, end, cpu_s, late_ms, recorder.worst_answers())


async def _closed(call: Caller, load: Load, recorder: _Recorder, mark: Mark) -> tuple[float, float, float]:
    stopping = False

    async def caller() -> None:
        while not stopping:
            await recorder.send(call, None)

    callers = [asyncio.create_task(caller()) for _ in range(load.concurrency)]
    try:
        await asyncio.sleep(load.warm_s)
        await mark("begin")
        begin, cpu = time.monotonic(), time.process_time()
        answered = len(recorder.done)
        await asyncio.sleep(load.seconds)
        while (
            len(recorder.done) - answered < LEAST_REQUESTS
            and not recorder.failed
            and time.monotonic() - begin < MOST_TIMES_LONGER * load.seconds
        ):
            await asyncio.sleep(load.seconds / 10)
        end, cpu_s = time.monotonic(), time.process_time() - cpu
        await mark("end")
        stopping = True
        await _drain(callers, load.drain_s, recorder)
    finally:
        _cancel(callers)
    return begin, end, cpu_s


async def _open(call: Caller, load: Load, recorder: _Recorder, mark: Mark) -> tuple[float, float, float]:
    tasks: set[asyncio.Task[None]] = set()
    start = time.monotonic() + 0.05
    begin, end = start + load.warm_s, start + load.warm_s + load.seconds
    beginning: asyncio.Task[None] | None = None
    cpu = time.process_time()
    try:
        for offset in arrivals(load.rate, load.warm_s + load.seconds):
            due = start + offset
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if beginning is None and due >= begin:
                # Not waited for: what is due is due.
                beginning = asyncio.create_task(mark("begin"))
                cpu = time.process_time()
            if len(tasks) >= MOST_IN_FLIGHT:
                recorder.failed += 1
                recorder.error = recorder.error or f"{MOST_IN_FLIGHT} requests were waiting for an answer already"
                continue
            task = asyncio.create_task(recorder.send(call, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        if beginning is not None:
            await beginning
        cpu_s = time.process_time() - cpu
        await mark("end")
        await _drain(list(tasks), load.drain_s, recorder)
    finally:
        _cancel(tasks)
    return begin, end, cpu_s


async def _drain(tasks: Sequence[asyncio.Task[None]], timeout_s: float, recorder: _Recorder) -> None:
    if not tasks:
        return
    _, missing = await asyncio.wait(tasks, timeout=timeout_s)
    if missing:
        recorder.failed += len(missing)
        recorder.error = recorder.error or f"no answer within {timeout_s:g} s after the window"
        _cancel(missing)


def _cancel(tasks: Any) -> None:
    for task in list(tasks):
        task.cancel()
