"""Results that are on disk as soon as they are there, and sections that end when their time is over."""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from bench.gpu.plan import SECTIONS, GpuSettings
from rejection_server.wording import one_line

Entry = Mapping[str, Any]
Add = Callable[..., None]
"""`add(kind, name=value, ...)` keeps one figure."""
Section = Callable[[GpuSettings, Add], None]

STOP_S = 20.0


class Results:
    """Figures of a run, each written to `path` when it comes."""

    def __init__(self, path: Path, facts: Entry) -> None:
        self.path = path
        self.facts = dict(facts)
        self.entries: list[dict[str, Any]] = []
        self._begin = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def add(self, section: str, kind: str, figures: Entry) -> None:
        """Keep and print one entry."""
        at_s = round(time.monotonic() - self._begin, 1)
        self.entries.append({"section": section, "kind": kind, "at_s": at_s, **figures})
        self._write()
        shown = "  ".join(f"{name} {value}" for name, value in figures.items() if not isinstance(value, dict | list))
        sys.stdout.write(f"{at_s:6.1f} s  {section}: {kind}  {shown}\n")
        sys.stdout.flush()

    def of(self, section: str, kind: str) -> list[dict[str, Any]]:
        """Entries of that kind."""
        return [entry for entry in self.entries if (entry["section"], entry["kind"]) == (section, kind)]

    def _write(self) -> None:
        text = json.dumps({**self.facts, "entries": self.entries}, indent=1)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(self.path)


def run(section: str, function: Section, settings: GpuSettings, results: Results) -> bool:
    """Run a section in a process of its own, which a fault on the GPU cannot outlive; whether it did what it should.

    What it adds is kept as it comes. It is stopped when its time is over, which is no failure.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sending, function, settings), name=section)
    begin = time.monotonic()
    process.start()
    sending.close()
    end = begin + SECTIONS[section] * settings.scale
    good = True
    try:
        while receiving.poll(max(0.0, end - time.monotonic())):
            kind, figures = receiving.recv()
            good = good and kind != "failed"
            results.add(section, kind, figures)
        if process.is_alive():
            results.add(section, "cut", {"after_s": round(time.monotonic() - begin, 1)})
    except EOFError:
        process.join(STOP_S)
        if process.exitcode:
            good = False
            results.add(section, "failed", {"why": f"its process ended with status {process.exitcode}"})
    finally:
        _stop(process)
    results.add(section, "took", {"seconds": round(time.monotonic() - begin, 1)})
    return good


def _stop(process: Any) -> None:
    if process.is_alive():
        process.terminate()
        process.join(STOP_S)
    if process.is_alive():
        process.kill()
        process.join()


def _work(pipe: Connection, function: Section, settings: GpuSettings) -> None:
    # Ctrl-C goes to the command, which ends this process with SIGTERM: what it started is stopped.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)

    def add(kind: str, **figures: Any) -> None:
        pipe.send((kind, figures))

    status = 0
    try:
        function(settings, add)
    except KeyboardInterrupt:
        status = 130
    except Exception as exc:  # a figure that is missing must not take the others along
        words = one_line(exc, 400)
        add("failed", why=f"{type(exc).__name__}: {words}")
    with contextlib.suppress(OSError):
        pipe.close()
    sys.stdout.flush()
    os._exit(status)  # what a broken GPU context would do on the way out is nobody's concern


def _interrupt(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
