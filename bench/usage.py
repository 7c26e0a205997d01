"""CPU and memory of a system: its processes and all their descendants."""

import os
from collections.abc import Iterable, Sequence

import psutil


def processes_of(pids: Sequence[int]) -> Iterable[psutil.Process]:
    """The processes and their descendants, those that are alive."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        try:
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                found[process.pid] = process
        except psutil.NoSuchProcess:
            continue
    return found.values()


def cpu_s(pids: Sequence[int]) -> float:
    """User and system time so far of the processes alive now, seconds."""
    total = 0.0
    for process in processes_of(pids):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def memory_mb(pids: Sequence[int]) -> float:
    """Memory of a system, MB: pages that processes share count once (proportional set size)."""
    total = 0.0
    for process in processes_of(pids):
        try:
            total += _proportional(process)
        except psutil.Error:
            continue
    return total / 1e6


def idle_share(interval_s: float) -> float:
    """Share of the machine's cores that were idle during the interval, 0 to 1: a benchmark wants a quiet machine."""
    return float(psutil.cpu_times_percent(interval_s).idle) / 100


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def _proportional(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss)
    except psutil.AccessDenied:
        return float(process.memory_info().rss)
