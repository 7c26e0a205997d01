"""Peak memory of this process and all that it starts, as Linux counts it."""

import contextlib
import threading
import time
from pathlib import Path
from types import TracebackType

INTERVAL_S = 0.2
PAUSES = 20
"""It waits for so many times as long as it took to look: what it watches needs the processor more."""
_PROC = Path("/proc")


class PeakMemory:
    """Watches, inside its `with` block, the memory of the process tree under process `pid`.

    What processes share is counted once (proportional set size).
    """

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        pause_s = INTERVAL_S
        while not self._done.wait(pause_s):
            begin = time.thread_time()
            self.peak_bytes = max(self.peak_bytes, sum(map(_used_bytes, _tree(self._pid))))
            pause_s = max(INTERVAL_S, PAUSES * (time.thread_time() - begin))


def _tree(root: int) -> set[int]:
    parents = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name in parentheses may hold anything.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    tree = {root}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return tree


def _used_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
