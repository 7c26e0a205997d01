"""The master's side of a run: worker processes, the stages they are sent through, and what they report."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from locust.env import Environment
from locust.runners import MasterRunner

from load.arrivals import Profile, Spacing, duration_s
from load.generator import START_DELAY_S
from load.record import Cell, Recorder
from load.rpc import Connection
from load.sampling import Sample, Sampler
from load.target import ROOT, TargetError

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
CONNECT_S = 60.0
SETTLE_S = 15.0
"""After a stage's last deadline: how long its workers may take to say so."""


@dataclass
class Stage:
    """One profile, run."""

    name: str
    profile: Profile
    offset_s: float
    """From the begin of the run to that of the stage."""
    recorder: Recorder = field(default_factory=Recorder)
    cpu_shares: list[float] = field(default_factory=list)
    """Share of one core that a worker took, in each of its reports."""
    cpu_s: float = 0.0
    """CPU of all workers."""
    messages: dict[str, str] = field(default_factory=dict)
    """What the server said with the first failure of each code."""
    is_interrupted: bool = False

    @property
    def duration_s(self) -> float:
        """Seconds that requests are sent for."""
        return duration_s(self.profile)


class Controller:
    """Locust's master with its workers, and the record of all stages.

    Args:
        connection: the server.
        mix: weights by kind of user.
        texts: a file to draw from, None for the users' own.
        repeat: share of the texts that are sent as they are in the file; the others are made distinct.
        sampler: the server's side.
        spacing: of arrivals.
        seed: of arrivals.
        on_progress: called every second with the stage, the seconds since its begin, and the requests under way.
    """

    def __init__(
        self,
        connection: Connection,
        mix: dict[str, int],
        texts: Path | None,
        repeat: float,
        sampler: Sampler,
        spacing: Spacing,
        seed: int,
        on_progress: Callable[[Stage, float, int], None],
    ) -> None:
        self.stages: list[Stage] = []
        self.samples: list[Sample] = []
        self.workers = 0
        self._sampler = sampler
        self._spacing, self._seed = spacing, seed
        self._on_progress = on_progress
        self._setup = {
            "connection": connection.to_plain(),
            "mix": mix,
            "texts": str(texts) if texts else "",
            "repeat": repeat,
        }
        self._timeout_s = connection.timeout_s
        self._begin_s = time.perf_counter()
        self._listening: set[str] = set()
        self._ready: list[str] = []
        self._done: set[str] = set()
        self._under_way: dict[str, int] = {}
        self._all_done = Event()
        self._runner: MasterRunner | None = None
        self._processes: list[subprocess.Popen[bytes]] = []

    @contextlib.contextmanager
    def running(self, processes: int, bind: str, remote: int) -> Iterator[None]:
        """Worker processes on this machine, and `remote` ones from elsewhere; all are told to end after the block."""
        host, _, port_text = bind.rpartition(":")
        port = int(port_text) if int(port_text) else _free_port(host)
        environment = Environment()
        runner = self._runner = environment.create_master_runner(master_bind_host=host, master_bind_port=port)
        for name in ("hello", "ready", "cells", "done"):
            runner.register_message(name, getattr(self, f"_on_{name}"))
        sampling = None
        try:
            self._processes = [_worker(host, port) for _ in range(processes)]
            self.workers = processes + remote
            self._wait_for_workers()
            sampling = gevent.spawn(self._sample)
            yield
        finally:
            if sampling is not None:
                sampling.kill()
            with contextlib.suppress(Exception):  # on the way out; the processes are ended below in any case
                runner.quit()
            for process in self._processes:
                assert process.stdin is not None
                process.stdin.close()  # the worker ends with it
            for process in self._processes:
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()

    def run(self, name: str, profile: Profile) -> Stage:
        """Send the profile's requests and wait for the answers; a KeyboardInterrupt ends it early and goes on up."""
        assert self._runner is not None
        offset_s = time.perf_counter() - self._begin_s + START_DELAY_S
        stage = Stage(name, profile, offset_s)
        self.stages.append(stage)
        self._done.clear()
        self._all_done.clear()
        number = len(self.stages) - 1
        for worker, client in enumerate(self._clients()):
            self._runner.send_message(
                "stage",
                {
                    "stage": number,
                    "profile": [list(point) for point in profile],
                    "spacing": self._spacing,
                    "worker": worker,
                    "workers": self.workers,
                    "seed": self._seed + number,
                },
                client_id=client,
            )
        deadline_s = time.perf_counter() + START_DELAY_S + stage.duration_s + self._timeout_s + SETTLE_S
        try:
            while not self._all_done.wait(timeout=1.0):
                self._check_workers(is_late=time.perf_counter() > deadline_s)
                passed_s = time.perf_counter() - self._begin_s - offset_s
                self._on_progress(stage, passed_s, sum(self._under_way.values()))
        except KeyboardInterrupt:
            stage.is_interrupted = True
            self._runner.send_message("halt", {})
            self._all_done.wait(timeout=3.0)
            raise
        return stage

    def _clients(self) -> list[str]:
        return sorted(self._listening)

    def _wait_for_workers(self) -> None:
        assert self._runner is not None
        deadline_s = time.perf_counter() + CONNECT_S
        while len(self._clients()) < self.workers:
            self._check_workers(is_late=False)
            if time.perf_counter() > deadline_s:
                raise TargetError(
                    f"{len(self._clients())} of {self.workers} generator processes connected within {CONNECT_S:g} s"
                )
            gevent.sleep(0.05)
        self._runner.send_message("setup", self._setup)
        while len(self._ready) < self.workers:
            self._check_workers(is_late=time.perf_counter() > deadline_s)
            gevent.sleep(0.02)
        for problem in filter(None, self._ready):
            raise TargetError(problem)

    def _check_workers(self, *, is_late: bool) -> None:
        ended = [process.returncode for process in self._processes if process.poll() is not None]
        if ended:
            raise TargetError(f"a generator process ended with status {ended[0]}; the lines above say why")
        if is_late:
            raise TargetError("a generator process does not report any more")

    def _on_hello(self, environment: Any, msg: Any, **_: Any) -> None:
        self._listening.add(msg.node_id)

    def _on_ready(self, environment: Any, msg: Any, **_: Any) -> None:
        self._ready.append(msg.data["problem"])

    def _on_cells(self, environment: Any, msg: Any, **_: Any) -> None:
        data = msg.data
        if not 0 <= data["stage"] < len(self.stages):
            return
        stage = self.stages[data["stage"]]
        for second, kind, cell in data["cells"]:
            stage.recorder.add(second, kind, Cell.from_plain(cell))
        if data["wall_s"] > 0.5:
            stage.cpu_shares.append(data["cpu_s"] / data["wall_s"])
        stage.cpu_s += data["cpu_s"]
        stage.messages = {**data["messages"], **stage.messages}
        self._under_way[msg.node_id] = data["under_way"]

    def _on_done(self, environment: Any, msg: Any, **_: Any) -> None:
        if msg.data["stage"] == len(self.stages) - 1:
            self._done.add(msg.node_id)
        if len(self._done) == self.workers:
            self._all_done.set()

    def _sample(self) -> None:
        while True:
            gevent.sleep(1.0 - (time.perf_counter() - self._begin_s) % 1.0)
            self.samples.append(self._sampler.sample(time.perf_counter() - self._begin_s))


def _worker(host: str, port: int) -> subprocess.Popen[bytes]:
    reachable = "127.0.0.1" if host in ("0.0.0.0", "*", "") else host  # compared, not bound
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--worker", "--loglevel", "WARNING"]
    command += ["--master-host", reachable, "--master-port", str(port)]
    environment = {**os.environ, "LOADTEST_CHILD": "1", "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'client'}"}
    # A session of its own: Ctrl-C is for the master, which asks the workers for what they have.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, start_new_session=True
    )


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
