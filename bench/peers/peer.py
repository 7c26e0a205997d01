"""One peer: its environment, its process, and the target the benchmark measures."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.contract import ModelFiles, OpenCaller, Target
from bench.peers import environment
from bench.ports import free_ports
from bench.settings import Precision
from rejection_server import telemetry

START_TIMEOUT_S = 600.0
"""Loading 82 million parameters in several Python processes of a busy machine takes a minute at worst."""
PROBE_TIMEOUT_S = 60.0
PROBES_PER_CORE = 4
"""Requests sent at once before measuring, so that every worker has answered some."""
STOP_GRACE_S = 10.0
KEPT_SETTINGS = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    **telemetry.SWITCHES,
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""Every peer gets them: no network, no telemetry, one thread unless the peer says otherwise."""
PROBE_TEXT = "Sorry, but I can't assist with that."

Report = Callable[[str], None]


class PeerError(RuntimeError):
    """A peer cannot be installed or started; the message says which, why, and where its log is."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a peer needs to know to be started once."""

    model: ModelFiles
    precision: Precision
    cores: int
    port: int
    """A free port of the loopback interface."""
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
    caller: OpenCaller
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables beside the usual ones."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way of serving the model."""

    name: str
    title: str
    """For tables and plots."""
    precisions: tuple[Precision, ...]
    folder: str
    """Name of the folder under `bench/peers` with its requirements; peers of one folder share an environment."""
    prepare: Callable[[Start], Program]
    notes: str
    """How it is set up, for the report."""
    serves_bundled: bool = False
    """Whether it takes the bundled model's only form, the served ONNX file."""

    def serves(self, models: Sequence[str]) -> list[tuple[str, str]]:
        """Those of the models that it takes, with each precision."""
        taken = [model for model in models if model != "bundled" or self.serves_bundled]
        return [(model, precision) for model in taken for precision in self.precisions]

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
    def start(self, model: ModelFiles, precision: Precision, cores: int, report: Report) -> Iterator[Target]:
        """Run the peer until the block ends; its processes are gone afterwards, its log stays under `build/bench/logs`.

        Raises:
            PeerError: The peer does not do this precision, or ended or stayed silent before it answered.
        """
        if precision not in self.precisions:
            raise PeerError(f"peer {self.name} serves {' and '.join(self.precisions)}, not {precision}")
        if not environment.is_current(self.folder):
            raise PeerError(f"peer {self.name} is not installed: install it first")
        name = f"{self.name}-{model.name}-{precision}"
        folder, log = environment.BUILD / "peers" / name, environment.BUILD / "logs" / f"{name}.log"
        cache, program = environment.BUILD / "cache" / self.folder, environment.PEERS / self.folder
        shutil.rmtree(folder, ignore_errors=True)
        for made in (folder, cache, log.parent):
            made.mkdir(parents=True, exist_ok=True)
        python = environment.python(self.folder)
        (port,) = free_ports(1)
        start = Start(model, precision, cores, port, folder, cache, program, python, report)
        try:
            prepared = self.prepare(start)
        except subprocess.CalledProcessError as exc:
            tail = (exc.stderr or "").strip()[-2000:]
            raise PeerError(f"peer {self.name} could not make its files for {model.name}:\n{tail}") from exc
        report(f"{self.title}, {precision}: starting")
        with running(prepared.command, {**usual_settings(), **prepared.settings}, folder, log) as process:
            self._wait_until_it_answers(process, prepared.caller, start, log)
            yield Target(name=self.name, pids=(process.pid,), caller=prepared.caller)

    def _wait_until_it_answers(
        self, process: subprocess.Popen[bytes], caller: OpenCaller, start: Start, log: Path
    ) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        # In a thread of its own, since the caller of this may have an event loop already.
        with ThreadPoolExecutor(1) as thread:
            while True:
                try:
                    thread.submit(asyncio.run, _probe(caller, start.cores, len(start.model.labels))).result()
                except KeyboardInterrupt:
                    process.kill()  # otherwise the block would end only with its answer
                    raise
                except Exception as exc:  # a peer says in its own way that it is not ready yet
                    said = f"its log {log} ends:\n{tail_of(log)}"
                    if process.poll() is not None:
                        how = f"ended with status {process.returncode} before it answered a request"
                        raise PeerError(f"peer {self.name} {how}; {said}") from exc
                    if time.monotonic() > deadline:
                        how = f"did not answer within {START_TIMEOUT_S:.0f} s ({exc!r})"
                        raise PeerError(f"peer {self.name} {how}; {said}") from exc
                    time.sleep(0.2)
                else:
                    return


def usual_settings() -> dict[str, str]:
    """Environment variables every peer gets."""
    return {**{name: os.environ[name] for name in KEPT_SETTINGS if name in os.environ}, **SETTINGS}


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], settings: Mapping[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own until the block ends; its output goes to `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=settings, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        _stop(process)


def tail_of(log: Path) -> str:
    """The end of a log."""
    return log.read_text(errors="replace").strip()[-3000:]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and its group: asked first, killed after a grace. What outlives its leader is killed as well."""
    try:
        deadline = time.monotonic() + STOP_GRACE_S
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.05)
    finally:  # a second Ctrl-C cuts the grace short, not the killing
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def _probe(caller: OpenCaller, cores: int, labels: int) -> None:
    async with asyncio.timeout(PROBE_TIMEOUT_S), caller() as call:
        check(await call([PROBE_TEXT]), 1, labels)
        for answer in await asyncio.gather(*(call([PROBE_TEXT, "Hello."]) for _ in range(cores * PROBES_PER_CORE))):
            check(answer, 2, labels)


def check(probabilities: NDArray[np.float32], rows: int, labels: int) -> None:
    """Raise PeerError unless it is probabilities [rows, labels]."""
    if probabilities.shape != (rows, labels) or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise PeerError(
            f"{rows} texts were answered with {probabilities.tolist()}, not with {labels} probabilities each"
        )
