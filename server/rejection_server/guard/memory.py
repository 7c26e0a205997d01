"""How much memory the processes of a server have, as the kernel tells."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["resident_bytes"]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STUB = "triton_python_backend_stub"
STUB_INSTANCE = 8
"""Which of a stub's arguments is the name of the model instance."""


def resident_bytes(root: int) -> dict[str, int]:
    """Resident memory in bytes of the descendants of a process, by name: guard, tritonserver, or a model's instance.

    Shared pages count for each that has them. Empty where the kernel does not tell a process's children.
    """
    found: dict[str, int] = {}
    waiting = [root]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        with contextlib.suppress(OSError, ValueError, IndexError):  # it may end meanwhile
            for task in (folder / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
            if folder.name != str(root):
                name = _name((folder / "cmdline").read_bytes().decode(errors="replace").split("\0"))
                pages = int((folder / "statm").read_text().split()[1])
                found[name] = found.get(name, 0) + pages * PAGE_BYTES
    return found


def _name(arguments: list[str]) -> str:
    if arguments[0].endswith(STUB):
        return arguments[STUB_INSTANCE]
    return "guard" if "rejection_server.guard" in arguments else Path(arguments[0]).name
