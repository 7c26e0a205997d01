"""The server's side, once a second: Triton's metrics, and CPU and memory of its processes where they can be seen."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

_SAMPLE = re.compile(r"^(nv_\w+)(?:\{([^}]*)\})? (\S+)", re.MULTILINE)
_MODEL = re.compile(r'model="([^"]*)"')
TIMEOUT_S = 2.0

Reading = Mapping[str, Mapping[str, float]]
"""Values by metric and model, summed over versions and, for failures, reasons."""


@dataclass(frozen=True)
class Sample:
    """What the server did in the interval that ends at `time_s`; None where it is not known or nothing happened."""

    time_s: float
    """Seconds from the begin of the run."""
    queue_ms: float | None = None
    """Average wait of a request in the queues of all its steps."""
    batch_size: float | None = None
    """Average rows of an execution of the slowest step, the one with most compute time."""
    executions_per_s: float | None = None
    """Of that step."""
    waiting: float | None = None
    """Requests in all queues, at the moment."""
    failed_per_s: float | None = None
    """Requests that failed, refused ones included, as the server counts them."""
    cache_hits_per_s: float | None = None
    """Of Triton's response cache."""
    cpu_cores: float | None = None
    """Processor cores in use by the server's processes."""
    memory_mib: float | None = None
    """Resident memory of the server's processes; pages that they share count in each."""


def read(text: str) -> Reading:
    """Read what the metrics endpoint answers."""
    values: dict[str, dict[str, float]] = {}
    for name, labels, value in _SAMPLE.findall(text):
        model = _MODEL.search(labels)
        by_model = values.setdefault(name, {})
        key = model[1] if model else ""
        by_model[key] = by_model.get(key, 0.0) + float(value)
    return values


def difference(
    before: Reading, after: Reading, seconds: float, time_s: float, model: str, steps: Sequence[str]
) -> Sample:
    """What happened in between to `model`; `steps` are the models that do its work, without ensembles."""

    def rise(name: str) -> dict[str, float]:
        then = before.get(name, {})
        return {key: max(0.0, value - then.get(key, 0.0)) for key, value in after.get(name, {}).items()}

    executions, compute = rise("nv_inference_exec_count"), rise("nv_inference_compute_infer_duration_us")
    slowest = max(steps, key=lambda name: compute.get(name, 0.0), default="")
    ran = executions.get(slowest, 0.0)
    queue_us = rise("nv_inference_queue_duration_us")
    answered = rise("nv_inference_request_success")
    waits = [queue_us.get(name, 0.0) / answered[name] / 1000 for name in steps if answered.get(name)]
    pending = after.get("nv_inference_pending_request_count", {})
    hits = rise("nv_cache_num_hits_per_model")
    return Sample(
        time_s=time_s,
        queue_ms=sum(waits) if answered.get(slowest) else None,
        batch_size=rise("nv_inference_count").get(slowest, 0.0) / ran if ran else None,
        executions_per_s=ran / seconds if executions else None,
        waiting=sum(pending.get(name, 0.0) for name in steps) if pending else None,
        failed_per_s=rise("nv_inference_request_failure").get(model, 0.0) / seconds if answered else None,
        cache_hits_per_s=sum(hits.values()) / seconds if hits else None,
    )


class Sampler:
    """Reads the server's state when asked."""

    def __init__(self, metrics: str | None, pid: int | None, model: str, steps: Sequence[str]) -> None:
        self._metrics = metrics
        self._model, self._steps = model, steps
        self._root = _process(pid)
        self._cpu_s: dict[int, float] = {}
        self._before: Reading | None = None
        self._before_s = time.monotonic()
        self.has_metrics = self._read() is not None
        self.has_processes = self._processes(1.0)[0] is not None

    def sample(self, time_s: float) -> Sample:
        """What happened since the last call."""
        now_s = time.monotonic()
        seconds = max(0.001, now_s - self._before_s)
        before = self._before
        after = self._read()
        self._before_s = now_s
        sample = Sample(time_s)
        if before is not None and after is not None:
            sample = difference(before, after, seconds, time_s, self._model, self._steps)
        cpu_cores, memory_mib = self._processes(seconds)
        return Sample(**{**vars(sample), "cpu_cores": cpu_cores, "memory_mib": memory_mib})

    def _read(self) -> Reading | None:
        if self._metrics is None:
            return None
        try:
            with urllib.request.urlopen(self._metrics, timeout=TIMEOUT_S) as response:  # given by a person
                self._before = read(response.read().decode())
        except (OSError, ValueError):
            return None
        return self._before

    def _processes(self, seconds: float) -> tuple[float | None, float | None]:
        if self._root is None:
            return None, None
        cpu_s: dict[int, float] = {}
        memory = 0
        try:
            for process in [self._root, *self._root.children(recursive=True)]:
                times = process.cpu_times()
                cpu_s[process.pid] = times.user + times.system
                memory += process.memory_info().rss
        except psutil.Error:
            return None, None
        used = sum(now - self._cpu_s.get(pid, now) for pid, now in cpu_s.items())
        self._cpu_s = cpu_s
        return used / seconds, memory / 2**20


def _process(pid: int | None) -> psutil.Process | None:
    try:
        return psutil.Process(pid) if pid else None
    except psutil.Error:
        return None
