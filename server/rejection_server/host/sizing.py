"""How many instances a model gets on a machine of N cores and M GPUs, and the repository that says so to Triton.

Triton takes instance counts from `config.pbtxt` only, which cannot know the machine. A model that should grow with it
says how many instances it wants for each core:

    parameters { key: "instances_per_core" value: { string_value: "1" } }

The embedded host then serves a repository in its own folder, of links to the one it was given, in which the CPU
instance groups of such a model have max(1, round(cores x instances_per_core)) instances together: the last one takes
what those before it leave. Any other host ignores the parameter and starts what `instance_group` says.

A group of GPU instances (KIND_GPU) that names no GPUs has its count on each of them, as Triton has it by itself; here
they are named, and `max_pending_requests`, the bound of requests under way, is for each GPU.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rejection_server.host.errors import OptionError

__all__ = ["Sizing", "instance_counts", "sized_repository", "usable_cores"]

PER_CORE = "instances_per_core"
MAX_PENDING = "max_pending_requests"
"""Parameter of a model: how many requests may wait, 0 for any number."""
CONFIG = "config.pbtxt"


@dataclass(frozen=True)
class Sizing:
    """What Triton is given in place of a repository."""

    repository: Path
    """The folder with the counts for this machine; the given one if it says them already."""
    instances: Mapping[str, int]
    """Instances of each model that grows with the machine."""
    gpus: int = 0
    """GPUs that they are on."""


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process may use: its affinity, or less where a control group limits CPU time (containers).

    A limit of 2.5 cores counts as 2: one more thread would only be throttled. At least 1.
    """
    cores = float(len(os.sched_getaffinity(0)))
    for quota in _quotas(cgroups, membership):
        cores = min(cores, quota)
    return max(1, math.floor(cores))


def _quotas(cgroups: Path, membership: Path) -> list[float]:
    """Limits, in cores, of the control group of this process and of those above it (version 2), or of version 1."""
    found = []
    try:
        own = next(line for line in membership.read_text().splitlines() if line.startswith("0::"))[3:].strip("/")
    except (OSError, StopIteration):
        own = ""
    folder = cgroups / own
    while folder.is_relative_to(cgroups):
        found += _limit(folder / "cpu.max")
        folder = folder.parent
    try:
        quota = int((cgroups / "cpu" / "cpu.cfs_quota_us").read_text())
        period = int((cgroups / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return found
    return [*found, quota / period] if quota > 0 and period > 0 else found


def _limit(cpu_max: Path) -> list[float]:
    try:
        quota, period = cpu_max.read_text().split()
        return [] if quota == "max" else [int(quota) / int(period)]
    except (OSError, ValueError, ZeroDivisionError):
        return []


def instance_counts(cores: int, per_core: float) -> int:
    """Instances of a model that wants `per_core` for each of `cores` cores; at least 1."""
    return max(1, round(cores * per_core))


def sized_repository(repository: Path, cores: int, folder: Path, *, gpus: int = 0) -> Sizing:
    """Write to `folder`, which is made, a repository of links with the instance counts for these cores and GPUs.

    Nothing is written where the counts are right as they stand, and `repository` itself is never touched.
    Raises OptionError for a number of cores below 1.
    """
    if cores < 1:
        raise OptionError(f"--cores {cores} is too few: give 1 or more, or leave it out for all cores")
    instances: dict[str, int] = {}
    changed: dict[str, str] = {}
    for config in sorted(repository.glob(f"*/{CONFIG}")):
        count, text = _sized(config, cores, gpus)
        if count:
            instances[config.parent.name] = count
        if text:
            changed[config.parent.name] = text
    if not changed:
        return Sizing(repository, instances, gpus)
    folder.mkdir()
    for model in repository.iterdir():
        if model.name not in changed:
            (folder / model.name).symlink_to(model.resolve())
            continue
        (folder / model.name).mkdir()
        for entry in model.iterdir():
            if entry.name != CONFIG:
                (folder / model.name / entry.name).symlink_to(entry.resolve())
        (folder / model.name / CONFIG).write_text(changed[model.name], encoding="utf-8")
    return Sizing(folder, instances, gpus)


def _sized(path: Path, cores: int, gpus: int) -> tuple[int, str]:
    """Instances, and the configuration that says so, empty if it does already.

    0 for a model that does not grow; a broken configuration, too: Triton tells what is wrong with it.
    """
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        per_core = float(config.parameters[PER_CORE].string_value) if PER_CORE in config.parameters else 0.0
        pending = int(config.parameters[MAX_PENDING].string_value) if MAX_PENDING in config.parameters else 0
    except (OSError, ValueError, text_format.ParseError):
        return 0, ""
    before = config.SerializeToString(deterministic=True)
    count = _on_cores(config, cores, per_core) + _on_gpus(config, gpus)
    if pending and gpus > 1:
        config.parameters[MAX_PENDING].string_value = str(pending * gpus)
    is_as_before = config.SerializeToString(deterministic=True) == before
    return count, "" if is_as_before else text_format.MessageToString(config)


def _on_cores(config: Any, cores: int, per_core: float) -> int:
    """Give the configuration its CPU instances; returns how many, 0 if it does not grow with the cores."""
    kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    groups = [group for group in config.instance_group if group.kind == kind]
    if not groups or not per_core > 0 or not math.isfinite(per_core):
        return 0
    count = left = instance_counts(cores, per_core)
    if sum(group.count for group in groups) == count:
        return count
    for group in groups:
        group.count = left if group is groups[-1] else min(group.count, left)
        left -= group.count
    kept = [group for group in config.instance_group if group.kind != kind or group.count > 0]
    del config.instance_group[:]
    config.instance_group.extend(kept)
    return count


def _on_gpus(config: Any, gpus: int) -> int:
    """Name the GPUs of its instances where it names none; returns how many instances there are on GPUs."""
    groups = [group for group in config.instance_group if group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU]
    for group in groups:
        if not group.gpus and gpus > 1:
            group.gpus.extend(range(gpus))
    return sum((group.count or 1) * (len(group.gpus) or 1) for group in groups) if gpus else 0
