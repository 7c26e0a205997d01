"""The machine and what runs on it: facts that a figure means nothing without, CPU and memory of processes."""

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.settings import ROOT

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
PACKAGES = ("nvidia-pytriton", "onnxruntime", "tokenizers", "numpy", "grpcio", "tritonclient")


def hardware() -> dict[str, Any]:
    """Processor, cores, memory, system, and how busy it is; takes a second."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = set((re.search(r"^flags\s*: (.*)$", text, re.MULTILINE) or ["", ""])[1].split())
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": cores(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "virtual": "hypervisor" in flags,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "idle_before": round(psutil.cpu_times_percent(1.0).idle / 100, 3),
    }


def versions() -> dict[str, str]:
    """Versions of what serves here; peers have their own pins."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def commit() -> str:
    """The commit that is checked out, with a plus sign if files differ from it; empty outside of a repository."""
    git = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def cpu_s(pids: Sequence[int]) -> float:
    """User and system time so far of the processes and their descendants that are alive now, seconds."""
    total = 0.0
    for process in _with_descendants(pids):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def memory_mb(pids: Sequence[int]) -> float:
    """Memory of the processes and their descendants, MB: pages that they share count once (proportional set size)."""
    total = 0.0
    for process in _with_descendants(pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            try:
                total += process.memory_full_info().pss
            except psutil.AccessDenied:
                total += process.memory_info().rss
    return total / 1e6


def _with_descendants(pids: Sequence[int]) -> set[psutil.Process]:
    found: set[psutil.Process] = set()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            found |= {root, *root.children(recursive=True)}
    return found
