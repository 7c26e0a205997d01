"""The server's side, once a second: Triton's metrics, and CPU and memory of its processes where they can be seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil

from load.metrics import Reading, fetch, rise


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
    """Requests that failed, those included that were refused by the model or by the guard before Triton; each once."""
    cache_hits_per_s: float | None = None
    """Of Triton's response cache."""
    cpu_cores: float | None = None
    """Processor cores in use by the server's processes."""
    memory_mib: float | None = None
    """Resident memory of the server's processes; pages that they share count in each."""


@dataclass(frozen=True)
class Work:
    """What does a model's work."""

    model: str
    steps: Sequence[str]
    """The models that it is made of, without ensembles."""

    def between(self, before: Reading, after: Reading, seconds: float) -> Sample:
        """What happened between two readings, at time 0."""

        def rose(name: str) -> dict[str, float]:
            return rise(before, after, f"nv_{name}")

        executions, compute = rose("inference_exec_count"), rose("inference_compute_infer_duration_us")
        slowest = max(self.steps, key=lambda step: compute.get(step, 0.0), default="")
        ran = executions.get(slowest, 0.0)
        queue_us, answered = rose("inference_queue_duration_us"), rose("inference_request_success")
        waits = [queue_us.get(step, 0.0) / answered[step] / 1000 for step in self.steps if answered.get(step)]
        pending = after.get("nv_inference_pending_request_count", {})
        failed, hits = rose("inference_request_failure"), rose("cache_num_hits_per_model")
        refused = sum(rise(before, after, "rejection_guard_refused").values())
        return Sample(
            time_s=0.0,
            queue_ms=sum(waits) if answered.get(slowest) else None,
            batch_size=rose("inference_count").get(slowest, 0.0) / ran if ran else None,
            executions_per_s=ran / seconds if executions else None,
            waiting=sum(pending.get(step, 0.0) for step in self.steps) if pending else None,
            failed_per_s=(failed.get(self.model, 0.0) + refused) / seconds if answered else None,
            cache_hits_per_s=sum(hits.values()) / seconds if hits else None,
        )


class Sampler:
    """Reads the server's state when asked.

    Args:
        metrics: URL of Triton's metrics, None if unknown.
        pid: the server's process, None if it cannot be looked at.
        work: what is looked for in the metrics.

    """

    def __init__(self, metrics: str | None, pid: int | None, work: Work) -> None:
        self._metrics, self._work = metrics, work
        self._root = psutil.Process(pid) if pid and psutil.pid_exists(pid) else None
        self._cpu_s: dict[int, float] = {}
        self._before: Reading | None = None
        self._before_s = time.monotonic()
        self.sample(0.0)
        self.has_metrics = self._before is not None

    def sample(self, time_s: float) -> Sample:
        """What happened since the last call."""
        now_s = time.monotonic()
        seconds, self._before_s = max(0.001, now_s - self._before_s), now_s
        before, after = self._before, self._read()
        self._before = after or before
        sample = self._work.between(before, after, seconds) if before and after else Sample(0.0)
        cpu_cores, memory_mib = self._processes(seconds)
        return replace(sample, time_s=time_s, cpu_cores=cpu_cores, memory_mib=memory_mib)

    def _read(self) -> Reading | None:
        try:
            return fetch(self._metrics) if self._metrics else None
        except (OSError, ValueError):
            return None

    def _processes(self, seconds: float) -> tuple[float | None, float | None]:
        """Cores and MiB in use."""
        if self._root is None:
            return None, None
        before, self._cpu_s, memory = self._cpu_s, {}, 0
        try:
            for process in [self._root, *self._root.children(recursive=True)]:
                with process.oneshot():
                    self._cpu_s[process.pid] = sum(process.cpu_times()[:2])
                    memory += process.memory_info().rss
        except psutil.Error:
            return None, None
        return sum(now - before.get(pid, now) for pid, now in self._cpu_s.items()) / seconds, memory / 2**20
