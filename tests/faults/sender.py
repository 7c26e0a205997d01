"""One process of the fuzzer that sends: many calls at a time, what each came to, and what it must not come to."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import service_pb2

from faults import calls
from faults.http2 import LOST, Connection, Stream, header_block
from faults.requests import TEXTS, plain

__all__ = ["Job", "send"]

HANG_S = 30.0
"""After so long without an end a call hangs."""
CONNECTIONS = 4
REPORT_S = 0.5
BAD_CODES = frozenset({LOST, "STREAM RESET", "NO STATUS", "INTERNAL", "UNKNOWN", "DATA_LOSS", "ABORTED"})
"""What says nothing to a caller. A bare Triton gives some of them."""
ALLOWED = {
    # What Triton says of a message that is none of its protocol.
    ("asking", "INTERNAL"),
    ("health", "INTERNAL"),
    # Metadata over the bound.
    ("bad_headers", "STREAM RESET"),
}
"""By kind of call, what may be."""
OUTPUTS = ("probabilities", "logits", "token_count")

Answers = dict[int, tuple[bytes, ...]]
"""By index of TEXTS: what each output holds for it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one sender does: its share of the calls of a run."""

    host: str
    port: int
    seed: int
    numbers: range
    only: frozenset[str]
    """Kinds of calls to make, the others' numbers are left out; empty for all."""
    callers: int
    """Calls at a time."""
    answers: Answers
    """What the texts' answers must be, to the last bit."""
    seconds: float


def send(job: Job, reports: Any, stop: Any) -> None:
    """Make all calls of a job, or those that there is time for; what happens goes into `reports`, a queue."""
    asyncio.run(_Sender(job, reports, stop).run())


class _Sender:
    def __init__(self, job: Job, reports: Any, stop: Any) -> None:
        self._job = job
        self._reports = reports
        self._stop = stop
        self._numbers = iter(job.numbers)
        self._sent: collections.Counter[tuple[str, str]] = collections.Counter()
        self._findings: list[tuple[str, int, str]] = []
        self._under_way: dict[int, float] = {}
        self._blocks: dict[tuple[str, tuple[tuple[str, str], ...]], bytes] = {}

    async def run(self) -> None:
        reporter = asyncio.create_task(self._report())
        end = time.monotonic() + self._job.seconds
        share = max(1, self._job.callers // CONNECTIONS)
        lanes = [_Lane(self._job) for _ in range(CONNECTIONS)]
        await asyncio.gather(*(self._work(lane, end) for lane in lanes for _ in range(share)))
        for lane in lanes:
            lane.close()
        reporter.cancel()
        self._flush()

    async def _work(self, lane: _Lane, end: float) -> None:
        for number in self._numbers:
            call = calls.make(self._job.seed, number)
            if self._job.only and call.kind not in self._job.only:
                continue
            self._under_way[number] = time.monotonic()
            try:
                await self._make(call, number, lane)
            except (OSError, ConnectionError) as exc:
                self._found("refused connection", number, f"{call.kind}: {exc}")
                await asyncio.sleep(0.05)
            del self._under_way[number]
            if self._stop.is_set() or time.monotonic() > end:
                return

    async def _make(self, call: calls.Call, number: int, lane: _Lane) -> None:
        if call.ending in ("dropped", "raw"):
            self._sent[call.kind, await self._drop(call)] += 1
            return
        stream = (await lane.connection()).call(self._block(call), call.pieces, ends=call.ends)
        if call.ending in ("cancelled", "deadline"):
            asyncio.get_running_loop().call_later(call.after_s, stream.cancel)
        try:
            code = await asyncio.wait_for(stream.code, HANG_S)
        except TimeoutError:
            code = "HANGS"
            stream.cancel()
            self._found("hang", number, call.kind)
        self._sent[call.kind, code] += 1
        self._judge(call, number, code, stream)

    def _judge(self, call: calls.Call, number: int, code: str, stream: Stream) -> None:
        if code in BAD_CODES and (call.kind, code) not in ALLOWED:
            self._found("bad code", number, f"{call.kind}: {code}")
        elif call.texts and code == "OK":
            if not _is_answer(bytes(stream.data[5:]), call.texts, self._job.answers):
                self._found("wrong answer", number, call.kind)
        elif call.kind in ("valid", "in_pieces", "compressed"):
            self._found("failed good call", number, f"{call.kind}: {code}")
        elif call.kind == "stream" and code == "OK":
            self._judge_stream(call, number, _messages(bytes(stream.data)))

    def _judge_stream(self, call: calls.Call, number: int, answers: list[bytes]) -> None:
        if len(answers) != len(call.messages):
            self._found("lost answer", number, f"{len(answers)} answers to {len(call.messages)} messages of a stream")
            return
        for place, (texts, answer) in enumerate(zip(call.messages, answers, strict=True)):
            response = service_pb2.ModelStreamInferResponse.FromString(answer)
            if texts and response.error_message:
                self._found("failed good call", number, f"message {place} of a stream: {response.error_message}")
            elif texts and not _is_answer(response.infer_response.SerializeToString(), texts, self._job.answers):
                self._found("wrong answer", number, f"message {place} of a stream")

    async def _drop(self, call: calls.Call) -> str:
        connection = await Connection.open(self._job.host, self._job.port)
        try:
            if call.ending == "raw":
                connection.write(call.pieces[0])
            else:
                connection.call(self._block(call), call.pieces, ends=call.ends)
            await asyncio.sleep(call.after_s)
            return "closed by the server" if connection.closed else "dropped"
        finally:
            connection.close()

    def _block(self, call: calls.Call) -> bytes:
        key = (call.path, call.headers)
        block = self._blocks.get(key)
        if block is None:
            block = header_block(*key)
            if len(self._blocks) < 1000:
                self._blocks[key] = block
        return block

    def _found(self, what: str, number: int, detail: str) -> None:
        if len(self._findings) < 1000:
            self._findings.append((what, number, detail))

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            self._flush()

    def _flush(self) -> None:
        now = time.monotonic()
        under_way = [(number, now - since) for number, since in self._under_way.items()]
        self._reports.put((dict(self._sent), self._findings, under_way))
        self._sent.clear()
        self._findings = []


class _Lane:
    """A connection that is opened again when it has gone."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()

    async def connection(self) -> Connection:
        async with self._opening:
            if self._connection is None or not self._connection.usable:
                self._connection = await Connection.open(self._job.host, self._job.port)
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _messages(data: bytes) -> list[bytes]:
    """The gRPC messages of a call's body."""
    found, position = [], 0
    while position + 5 <= len(data):
        (size,) = struct.unpack_from(">I", data, position + 1)
        found.append(data[position + 5 : position + 5 + size])
        position += 5 + size
    return found


def _is_answer(message: bytes, texts: tuple[int, ...], answers: Answers) -> bool:
    return split_answer(message, len(texts)) == [answers[text] for text in texts]


def split_answer(message: bytes, count: int) -> list[tuple[bytes, ...]]:
    """The rows of an answer, each as the bytes of its outputs; empty if it does not have what it must have."""
    try:
        response = service_pb2.ModelInferResponse.FromString(message)
    except Exception:
        return []
    raw = {output.name: data for output, data in zip(response.outputs, response.raw_output_contents, strict=False)}
    if set(raw) != set(OUTPUTS) or any(len(data) % count for data in raw.values()):
        return []
    return [
        tuple(raw[name][row * (size := len(raw[name]) // count) : (row + 1) * size] for name in OUTPUTS)
        for row in range(count)
    ]


async def _ask(host: str, port: int) -> Answers:
    connection = await Connection.open(host, port)
    with contextlib.closing(connection):
        answers = {}
        for index in range(len(TEXTS)):
            message = plain([index]).SerializeToString()
            stream = connection.call(header_block(f"{calls.SERVICE}ModelInfer"), [calls.framed(message)])
            code = await asyncio.wait_for(stream.code, HANG_S)
            if code != "OK":
                raise RuntimeError(f"text {index} is not answered: {code}")
            (answers[index],) = split_answer(bytes(stream.data[5:]), 1)
        return answers


def ask(address: str) -> Answers:
    """The answer of each of TEXTS, asked for alone and before anything else happens."""
    host, port = split(address)
    return asyncio.run(_ask(host, port))


def split(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT."""
    host, _, port = address.rpartition(":")
    return socket.gethostbyname(host), int(port)
