"""How many instances a model gets on a machine of N cores and M GPUs, and the repository that says so to Triton.

Triton takes instance counts from `config.pbtxt` only, which cannot know the machine. A model that should grow with it
says how many instances it wants for each core:

    parameters { key: "instances_per_core" value: { string_value: "1" } }

The embedded host then serves a repository in its own folder, of links to the one it was given, in which the CPU
instance groups of such a model have max(1, round(cores x instances_per_core)) instances together: the last one takes
what those before it leave. Any other host ignores the parameter and starts what `instance_group` says.

Several classifiers of a repository share the cores, in equal parts or by weight: each is sized as if its part were all
there is. So many instances as cores run at a time, however many classifiers there are, but for one each.

A group of GPU instances (KIND_GPU) that names no GPUs has its count on each of them, as Triton has it by itself; here
they are named, and `max_pending_requests`, the bound of requests under way, is for each GPU.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rejection_server.host.errors import OptionError
from rejection_server.host.links import CONFIG, linked_repository
from rejection_server.names import classifiers_in

__all__ = ["Sizing", "instance_counts", "shared_cores", "sized_repository", "usable_cores"]

PER_CORE = "instances_per_core"
MAX_PENDING = "max_pending_requests"
"""Parameter of a model: how many requests may wait, 0 for any number."""


@dataclass(frozen=True)
class Sizing:
    """What Triton is given in place of a repository."""

    repository: Path
    """The folder with the counts for this machine; the given one if it says them already."""
    instances: Mapping[str, int]
    """Instances of each model that grows with the machine."""
    shares: Mapping[str, int] = field(default_factory=dict)
    """Cores that each classifier has, by its public name."""


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


def shared_cores(cores: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Share `cores` cores out by weight, whole ones, at least one each; more than there are only where that takes it.

    One after the other goes to whoever has the least for its weight (D'Hondt's method). Weights are above 0.
    """
    shares = dict.fromkeys(weights, 1)
    for _ in range(cores - len(shares) if shares else 0):
        shares[max(shares, key=lambda name: weights[name] / (shares[name] + 1))] += 1
    return shares


def sized_repository(
    repository: Path, cores: int, folder: Path, weights: Mapping[str, float] = MappingProxyType({}), *, gpus: int = 0
) -> Sizing:
    """Write to `folder`, which is made, a repository of links with the instance counts for these cores and GPUs.

    `weights` are those of classifiers, by public name; others have 1. Nothing is written where the counts are right as
    they stand, and `repository` itself is never touched.
    Raises OptionError for a number of cores below 1, and for the weight of a classifier that is not there.
    """
    if cores < 1:
        raise OptionError(f"--cores {cores} is too few: give 1 or more, or leave it out for all cores")
    classifiers = {names.public: names for names in classifiers_in(repository)}
    if unknown := sorted(weights.keys() - classifiers):
        held = ", ".join(classifiers) or "none"
        raise OptionError(f"--weight {unknown[0]} names no classifier of {repository}: it has {held}")
    shares = shared_cores(cores, {name: weights.get(name, 1.0) for name in classifiers})
    cores_of = {model: shares[name] for name, names in classifiers.items() for model in names.models}
    instances: dict[str, int] = {}
    changed: dict[str, str] = {}
    for config in sorted(repository.glob(f"*/{CONFIG}")):
        count, text = _sized(config, cores_of.get(config.parent.name, cores), gpus)
        if count:
            instances[config.parent.name] = count
        if text:
            changed[config.parent.name] = text
    if not changed:
        return Sizing(repository, instances, shares)
    return Sizing(linked_repository(repository, folder, changed), instances, shares)


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
