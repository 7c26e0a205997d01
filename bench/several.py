"""What a second classifier costs: one alone beside two that share the cores, and three ways to ask both of a text.

The second has the weights of the first, so that all rates are of the same work. `both` is one ensemble that runs the
two side by side; it is made for this comparison alone.
"""

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2_grpc

from bench.callers import FIGURES, joined
from bench.contract import Caller
from bench.figures import Row
from bench.generator import Generator
from bench.measure import Bench
from bench.plan import workload
from bench.triton import CALL_TIMEOUT_S, started
from rejection_client.protocol import infer_request, raw_output
from rejection_server.host.sizing import usable_cores
from rejection_server.names import Names
from rejection_server.prepare.configuration import newest_facts, rendered

LOADS = (("short", 1), ("short", 16), ("mixed", 32))
"""Workload, and callers of the closed loop."""
FIRST, SECOND, BOTH = Names(), Names("second"), "both"
Way = Literal["one alone", "two in turns", "two calls a text", "one call a text"]
WAYS: tuple[Way, ...] = ("one alone", "two in turns", "two calls a text", "one call a text")
WINDOWS = len(LOADS) * len(WAYS)
ENSEMBLE = """
name: "{name}"
platform: "ensemble"
max_batch_size: 64
input [ {{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [
  {{ name: "first" data_type: TYPE_FP32 dims: [ {labels} ] }},
  {{ name: "second" data_type: TYPE_FP32 dims: [ {labels} ] }}
]
ensemble_scheduling {{ step [ {steps} ] }}
"""
STEP = """{{
  model_name: "{model}" model_version: -1
  input_map {{ key: "text" value: "text" }} output_map {{ key: "probabilities" value: "{output}" }}
}}"""


@dataclass(frozen=True, slots=True)
class SeveralCaller:
    """Asks one classifier, both in turns, or both for each text: by a call of each at once, or of the ensemble."""

    address: str
    way: Way

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[Caller]:
        """Open a channel."""
        turns = itertools.cycle([FIRST.public] if self.way == "one alone" else [FIRST.public, SECOND.public])
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

            async def ask(model: str, texts: Sequence[str], *outputs: str) -> NDArray[np.float32]:
                answer = await stub.ModelInfer(infer_request(model, texts, outputs=outputs), timeout=CALL_TIMEOUT_S)
                found = [np.frombuffer(raw_output(answer, name, "FP32"), np.float32) for name in outputs]
                return found[0].reshape(len(texts), -1)

            async def call(texts: Sequence[str]) -> NDArray[np.float32]:
                if self.way == "one call a text":
                    return await ask(BOTH, texts, "first", "second")
                if self.way == "two calls a text":
                    both = (ask(names.public, texts, "probabilities") for names in (FIRST, SECOND))
                    return (await asyncio.gather(*both))[0]
                return await ask(next(turns), texts, "probabilities")

            yield call


def in_turns(bench: Bench) -> list[Row]:
    """A row for each load and way to ask, rounds joined; on servers of their own, sized for this machine's cores."""
    assert bench.running is not None, "it is about this server"
    repository, rows = bench.running.repository, []
    with contextlib.ExitStack() as stack:
        folders = (repository, stack.enter_context(_doubled(repository)))
        servers = [stack.enter_context(started(each, lambda _: None, cores=usable_cores())) for each in folders]
        benches = {}
        for way in WAYS:
            running = servers[way != "one alone"]
            generator = stack.enter_context(Generator(SeveralCaller(running.address, way)))
            benches[way] = replace(bench, generator=generator, target=running.target, running=running)
        for _ in range(bench.settings.rounds):
            for kind, concurrency in LOADS:
                for way, at in benches.items():
                    row = at.measure(workload(kind), concurrency=concurrency)
                    figures = {name: row[name] for name in (*FIGURES, "cpu_ms_per_text")}
                    rows.append({"caller": way, "workload": kind, "concurrency": concurrency, **figures})
    return joined(rows)


@contextlib.contextmanager
def _doubled(repository: Path) -> Iterator[Path]:
    """A repository with that classifier, the same once more, and the ensemble of both, until the block ends."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "twice"
        folder.mkdir()
        for first, second in zip(FIRST.models, SECOND.models, strict=True):
            (folder / first).symlink_to((repository / first).resolve())
            shutil.copytree(repository / first, folder / second)
        facts = newest_facts(repository, FIRST)
        for name, content in rendered(facts, SECOND).items():
            (folder / name).write_text(content, encoding="utf-8")
        parts = (("first", FIRST.scoring), ("second", SECOND.scoring))
        steps = ", ".join(STEP.format(model=model, output=output) for output, model in parts)
        (folder / BOTH / "1").mkdir(parents=True)
        (folder / BOTH / "config.pbtxt").write_text(
            ENSEMBLE.format(name=BOTH, labels=len(facts["labels"]), steps=steps)
        )
        yield folder
