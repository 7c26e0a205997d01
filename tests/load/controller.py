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
import numpy as np
from gevent.event import Event
from locust.env import Environment

from load import users
from load.arrivals import Profile, duration_s
from load.cli import Options
from load.generator import START_DELAY_S
from load.record import ROW, Requests
from load.sampling import Sample, Sampler
from load.target import TargetError

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
    requests: Requests = field(default_factory=Requests)
    cpu_shares: list[float] = field(default_factory=list)
    """Share of one core that a worker took, in each of its reports."""
    cpu_s: float = 0.0
    """CPU of all workers."""
    messages: dict[str, str] = field(default_factory=dict)
    """What the server said with the first failure of each code."""
    under_way: dict[str, int] = field(default_factory=dict)
    """Requests that wait for their answers, by worker."""
    done: set[str] = field(default_factory=set)
    """Workers that have sent everything and have all the answers."""
    is_interrupted: bool = False

    @property
    def duration_s(self) -> float:
        """Seconds that requests are sent for."""
        return duration_s(self.profile)


class Controller:
    """Locust's master with its workers, and the record of all stages.

    Args:
        options: what is sent, and by how many.
        url: the server.
        sampler: the server's side.
        on_progress: called every second with the stage and the seconds since its begin.

    """

    def __init__(
        self, options: Options, url: str, sampler: Sampler, on_progress: Callable[[Stage, float], None]
    ) -> None:
        self.stages: list[Stage] = []
        self.samples: list[Sample] = []
        self.workers = options.processes + options.remote_workers
        self._options, self._sampler, self._on_progress = options, sampler, on_progress
        self._common = {
            "spacing": options.spacing,
            "workers": self.workers,
            "url": url,
            # Without paths, which a message does not carry; the certificates are read by each worker.
            "options": {name: value for name, value in vars(options).items() if not isinstance(value, (Path, list))},
            "mix": users.mix(options.users),
        }
        self._connected: set[str] = set()
        self._problem = ""
        """Why a worker cannot send."""
        self._begin_s = time.perf_counter()
        self._all_done = Event()
        self._processes: list[subprocess.Popen[bytes]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Worker processes on this machine, and those from elsewhere; all are told to end after the block."""
        host, _, port_text = self._options.bind.rpartition(":")
        port = int(port_text) or _free_port(host)
        self._runner = Environment().create_master_runner(master_bind_host=host, master_bind_port=port)
        for name in ("hello", "report"):
            self._runner.register_message(name, getattr(self, f"_on_{name}"))
        sampling = None
        try:
            self._processes = [_worker(host, port) for _ in range(self._options.processes)]
            self._wait_for_workers()
            self.run("connect", [(0.0, 0.0), (0.0, 0.0)])
            self.stages.clear()
            self._begin_s = time.perf_counter()
            sampling = gevent.spawn(self._sample)
            yield
        finally:
            if sampling is not None:
                sampling.kill()
            with contextlib.suppress(Exception):  # on the way out; the processes are ended below in any case
                self._runner.quit()
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
        number, offset_s = len(self.stages), time.perf_counter() - self._begin_s + START_DELAY_S
        stage = Stage(name, profile, offset_s)
        self.stages.append(stage)
        self._all_done.clear()
        message = {
            **self._common,
            "stage": number,
            "profile": [list(point) for point in profile],
            "seed": self._options.seed + number,
        }
        for worker, client in enumerate(sorted(self._connected)):
            self._runner.send_message("stage", {**message, "worker": worker}, client_id=client)
        deadline_s = time.perf_counter() + START_DELAY_S + stage.duration_s + self._options.timeout_s + SETTLE_S
        try:
            while not self._all_done.wait(timeout=1.0):
                self._check_workers()
                if time.perf_counter() > deadline_s:
                    raise TargetError("a generator process does not report any more")
                self._on_progress(stage, time.perf_counter() - self._begin_s - offset_s)
        except KeyboardInterrupt:
            stage.is_interrupted = True
            self._runner.send_message("halt", {})
            self._all_done.wait(timeout=3.0)
            raise
        self._check_workers()
        return stage

    def _wait_for_workers(self) -> None:
        deadline_s = time.perf_counter() + CONNECT_S
        while len(self._connected) < self.workers:
            self._check_workers()
            if time.perf_counter() > deadline_s:
                raise TargetError(
                    f"{len(self._connected)} of {self.workers} generator processes connected within {CONNECT_S:g} s"
                )
            gevent.sleep(0.02)

    def _check_workers(self) -> None:
        ended = [process.returncode for process in self._processes if process.poll() is not None]
        if self._problem:
            raise TargetError(self._problem)
        if ended:
            raise TargetError(f"a generator process ended with status {ended[0]}; the lines above say why")

    def _on_hello(self, msg: Any, **_: Any) -> None:
        if len(self._connected) < self.workers:  # one more than were asked for has nothing to do
            self._connected.add(msg.node_id)

    def _on_report(self, msg: Any, **_: Any) -> None:
        data = msg.data
        stage = self.stages[data["stage"]]
        stage.requests.add(np.frombuffer(data["requests"], ROW))
        if data["wall_s"] > 0.5:
            stage.cpu_shares.append(data["cpu_s"] / data["wall_s"])
        stage.cpu_s += data["cpu_s"]
        stage.messages = {**data["messages"], **stage.messages}
        stage.under_way[msg.node_id] = data["under_way"]
        self._problem = self._problem or data["problem"]
        if data["is_last"]:
            stage.done.add(msg.node_id)
        if len(stage.done) == self.workers and stage is self.stages[-1]:
            self._all_done.set()

    def _sample(self) -> None:
        while True:
            gevent.sleep(1.0 - (time.perf_counter() - self._begin_s) % 1.0)
            self.samples.append(self._sampler.sample(time.perf_counter() - self._begin_s))


def _worker(host: str, port: int) -> subprocess.Popen[bytes]:
    reachable = "127.0.0.1" if host in ("0.0.0.0", "*", "") else host  # compared, not bound
    command = [sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py"))]
    command += ["--worker", "--loglevel", "WARNING", "--master-host", reachable, "--master-port", str(port)]
    # A session of its own: Ctrl-C is for the master, which asks the workers for what they have.
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "LOADTEST_CHILD": "1"},
        start_new_session=True,
    )


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
