"""One peer: its environment, its process, and the target the benchmark measures."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.contract import Caller, ModelFiles, Target
from bench.peers import environment, process

START_TIMEOUT_S = 600.0
"""Loading 82 million parameters in several Python processes of a busy machine takes a minute at worst."""
PROBE_TIMEOUT_S = 60.0
PROBES_PER_CORE = 4
"""Requests sent at once before measuring, so that every worker has answered some."""
KEPT_SETTINGS = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")
PROBE_TEXT = "Sorry, but I can't assist with that."

Report = Callable[[str], None]


class PeerError(RuntimeError):
    """A peer cannot be installed or started; the message says which, why, and where its log is."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a peer needs to know to be started once."""

    model: ModelFiles
    precision: str
    cores: int
    port: int
    """A free port of the loopback interface."""
    free_port: Callable[[], int]
    """Gives more of them."""
    folder: Path
    """Empty; for files of this start."""
    cache: Path
    """Kept between starts; for what takes long to make."""
    program: Path
    """The peer's folder, where its program is."""
    python: Path
    """Interpreter of the peer's environment."""
    report: Report


@dataclass(frozen=True, slots=True)
class Program:
    """How to run a peer and how to call it."""

    command: Sequence[str | Path]
    caller: Callable[[], AbstractAsyncContextManager[Caller]]
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables beside the usual ones."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way of serving the model."""

    name: str
    title: str
    """For tables and plots."""
    precisions: tuple[str, ...]
    folder: str
    """Name of the folder under `bench/peers` with its requirements; peers of one folder share an environment."""
    prepare: Callable[[Start], Program]
    notes: str
    """How it is set up, for the report."""

    def install(self, report: Report) -> None:
        """Make the peer's environment under `build/bench` unless it is there and current.

        Raises:
            PeerError: What pip said, and where its log is.
        """
        try:
            environment.ensure(self.folder, report)
        except environment.InstallError as exc:
            raise PeerError(f"peer {self.name} cannot be installed: {exc}") from exc

    @contextlib.contextmanager
    def start(self, model: ModelFiles, precision: str, cores: int, report: Report) -> Iterator[Target]:
        """Run the peer until the block ends; its processes are gone afterwards, its log stays under `build/bench/logs`.

        Raises:
            PeerError: The peer does not do this precision, or ended or stayed silent before it answered.
        """
        if precision not in self.precisions:
            raise PeerError(f"peer {self.name} serves {' and '.join(self.precisions)}, not {precision}")
        if not environment.is_current(self.folder):
            raise PeerError(f"peer {self.name} is not installed: install it first")
        name = f"{self.name}-{model.name}-{precision}"
        start = Start(
            model=model,
            precision=precision,
            cores=cores,
            port=process.free_port(),
            free_port=process.free_port,
            folder=_emptied(environment.BUILD / "peers" / name),
            cache=environment.BUILD / "cache" / self.folder,
            program=environment.PEERS / self.folder,
            python=environment.python(self.folder),
            report=report,
        )
        start.cache.mkdir(parents=True, exist_ok=True)
        log = environment.BUILD / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            program = self.prepare(start)
        except subprocess.CalledProcessError as exc:
            tail = (exc.stderr or "").strip()[-2000:]
            raise PeerError(f"peer {self.name} could not make its files for {model.name}:\n{tail}") from exc
        report(f"{self.title}, {precision}: starting")
        settings = {**usual_settings(cores), **program.settings}
        with process.running(program.command, settings, start.folder, log) as running:
            self._wait_until_it_answers(running, program, model, cores, log)
            yield Target(name=self.name, pids=(running.pid,), caller=program.caller)

    def _wait_until_it_answers(
        self, running: subprocess.Popen[bytes], program: Program, model: ModelFiles, cores: int, log: Path
    ) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                # In a thread of its own, since the caller of this may have an event loop already.
                with ThreadPoolExecutor(1) as thread:
                    probe = thread.submit(asyncio.run, _probe(program, cores, len(model.labels)))
                    try:
                        probe.result()
                    except KeyboardInterrupt:
                        running.kill()  # otherwise the block would end only with its answer
                        raise
            except Exception as exc:  # a peer says in its own way that it is not ready yet
                if running.poll() is not None:
                    raise PeerError(
                        f"peer {self.name} ended with status {running.returncode} before it answered a request; "
                        f"its log {log} ends:\n{process.tail(log)}"
                    ) from exc
                if time.monotonic() > deadline:
                    raise PeerError(
                        f"peer {self.name} did not answer within {START_TIMEOUT_S:.0f} s ({exc!r}); "
                        f"its log {log} ends:\n{process.tail(log)}"
                    ) from exc
                time.sleep(0.2)
            else:
                return


def usual_settings(cores: int) -> dict[str, str]:
    """Environment variables every peer gets: no network, no telemetry, one thread unless the peer says otherwise."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ
    }
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "BENCH_PEER_CORES": str(cores),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


async def _probe(program: Program, cores: int, labels: int) -> None:
    async with asyncio.timeout(PROBE_TIMEOUT_S), program.caller() as call:
        _check(await call([PROBE_TEXT]), 1, labels)
        answers = await asyncio.gather(*(call([PROBE_TEXT, "Hello."]) for _ in range(cores * PROBES_PER_CORE)))
        for answer in answers:
            _check(answer, 2, labels)


def _check(probabilities: np.ndarray, rows: int, labels: int) -> None:
    if probabilities.shape != (rows, labels) or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise PeerError(
            f"{rows} texts were answered with {probabilities.tolist()}, not with {labels} probabilities each"
        )


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
