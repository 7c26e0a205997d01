"""What Triton's processes need of the system around them: folders with room, /proc and shared memory."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from rejection_server.host.errors import HostError, OptionError

__all__ = ["check_log", "check_surroundings", "why_unusable"]

PROCESSES = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - this is where POSIX shared memory lives on Linux
SMALLEST_MIB = 4
"""Shared memory that the smallest layout starts with: 1 MiB for each process of a model, and room to pass a text."""
LARGEST_REQUEST_MIB = 128
"""Shared memory with which the largest request of the contract passes: its 64 texts of 1 MiB take 66 MiB."""

_log = logging.getLogger(__name__)


def check_surroundings() -> None:
    """Raise HostError if Triton's processes could not be watched, or could not share memory.

    Logs a warning if there is less shared memory than the largest requests take.
    """
    if not (PROCESSES / "self" / "stat").exists():
        raise HostError(
            f"{PROCESSES} is not mounted, by which Triton's processes are watched: mount it, "
            f"mount -t proc proc {PROCESSES}"
        )
    larger = "(in a container: --shm-size=256m; elsewhere: mount -o remount,size=256m /dev/shm)"
    reason = why_unusable(SHARED_MEMORY, SMALLEST_MIB * 2**20, runs_programs=False)
    if reason is not None:
        raise HostError(
            f"Triton's processes pass texts to each other in {SHARED_MEMORY}, which {reason}: have a writable tmpfs "
            f"there, of {LARGEST_REQUEST_MIB} MiB or more {larger}"
        )
    free_mib = _free_bytes(SHARED_MEMORY) >> 20
    if free_mib < LARGEST_REQUEST_MIB:
        _log.warning(
            "%s has %d MiB free, with which requests of many large texts fail: make it %d MiB or more %s",
            *(SHARED_MEMORY, free_mib, LARGEST_REQUEST_MIB, larger),
        )


def check_log(path: Path | None) -> None:
    """Raise OptionError unless lines can be appended to the file; it is made if need be."""
    if path is None:
        return
    try:
        path.open("ab").close()
    except OSError as exc:
        raise OptionError(
            f"Triton's log cannot be written to {path} ({exc.strerror}): name a file in a folder that exists and that "
            "this user may write to"
        ) from exc


def why_unusable(folder: Path | str, needed: int, *, runs_programs: bool = True) -> str | None:
    """Why a folder cannot hold so many bytes, of programs among others, in words to follow its name; None if it can."""
    if not Path(folder).is_dir():
        return "is not there"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "is not writable"
    if runs_programs and os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return "is mounted noexec"
    free = _free_bytes(folder)
    return f"is full ({free / 2**20:.1f} of {needed / 2**20:.0f} MiB needed)" if free < needed else None


def _free_bytes(folder: Path | str) -> int:
    """Bytes that this user may still write there."""
    system = os.statvfs(folder)
    return system.f_bavail * system.f_frsize
