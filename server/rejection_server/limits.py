"""How much memory this process and those that it starts may use, and who limits it; of the standard library alone."""

from __future__ import annotations

import resource
from pathlib import Path

__all__ = ["address_space_limit", "address_space_problem", "available_bytes", "memory_limits", "oom_kills"]

SMALLEST_ADDRESS_SPACE = 2 * 2**30
"""Triton's process with the bundled model does not start with 1.5 GiB on two cores, and does with 2.2 GiB."""
ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def address_space_limit() -> int | None:
    """Bytes of address space that a process may have, None without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def address_space_problem() -> str | None:
    """One sentence if the limit of address space (`ulimit -v`) is too small for any server; None if it is not."""
    limit = address_space_limit()
    if limit is None or limit >= SMALLEST_ADDRESS_SPACE:
        return None
    return (
        f"a process may have {limit >> 20} MiB of address space here (ulimit -v), and Triton needs "
        f"{SMALLEST_ADDRESS_SPACE >> 20} MiB or more: lift the limit with ulimit -v unlimited"
    )


def memory_limits() -> str:
    """The limits that hold, in words: of address space, of the control group, else what the machine has free."""
    found = []
    if (address_space := address_space_limit()) is not None:
        found.append(f"{address_space >> 20} MiB of address space a process (ulimit -v)")
    if (limit := _control_group_limit()) is not None:
        found.append(f"{limit >> 20} MiB in all for the control group (container)")
    if not found:
        found = [f"{kib >> 10} MiB free on the machine" for kib in _available_kib()]
    return " and ".join(found) or "an unknown amount"


def available_bytes() -> int | None:
    """Memory that is still to be had, by the machine and by each control group above; None where nobody tells."""
    found = [kib << 10 for kib in _available_kib()]
    for folder in _control_groups():
        limit, used = _read(folder / "memory.max").strip(), _read(folder / "memory.current").strip()
        if limit.isdecimal() and used.isdecimal():
            statistics = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            # What only files are remembered with is given up for something better.
            found.append(int(limit) - int(used) + int(statistics.get("inactive_file", 0)))
    return min(found, default=None)


def oom_kills() -> int:
    """Processes of this control group that the kernel has killed because its memory was used up."""
    for folder in _control_groups():
        for line in _read(folder / "memory.events").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _control_group_limit() -> int | None:
    """The lowest limit of the control group and those above it, in bytes; version 1 has it in another file."""
    texts = [_read(folder / name) for folder in _control_groups() for name in ("memory.max", "memory.limit_in_bytes")]
    # Version 1 writes a number near 2**63 where there is no limit.
    limits = [int(text) for text in texts if text.strip().isdecimal() and int(text) < 2**60]
    return min(limits, default=None)


def _control_groups() -> list[Path]:
    """Folders of this process's control group and of those above it, nearest first."""
    own = next((line[3:] for line in _read(MEMBERSHIP).splitlines() if line.startswith("0::")), "/")
    nearest = ROOT / own.strip("/")
    return [nearest, *(folder for folder in nearest.parents if folder.is_relative_to(ROOT)), ROOT / "memory"]


def _available_kib() -> list[int]:
    return [int(line.split()[1]) for line in _read(Path("/proc/meminfo")).splitlines() if line.startswith("MemAvail")]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
