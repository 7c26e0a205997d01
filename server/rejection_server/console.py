"""What the command `serve` shows: Triton's log, the progress of loading, and where the server is once it is ready."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rejection_server.commands import command

if TYPE_CHECKING:
    from rejection_server.host import ServeOptions, Server

__all__ = ["Console", "print_summary"]

EXAMPLE_TEXT = "Sorry, but I can't assist with that."
PROGRESS_AFTER_S = 2.0


class Console:
    """Writes Triton's log and the progress of loading to standard error.

    While the models load, the log of a quiet start is held back: if a model fails, one sentence says why.
    """

    def __init__(self, *, hold_log: bool) -> None:
        self._held: list[str] | None = [] if hold_log else None
        self._rewrites = sys.stderr.isatty() and not self._held
        self._shown_s = 0

    def log(self, line: str) -> None:
        if self._held is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._held.append(line)

    def release_log(self) -> None:
        held, self._held = self._held or [], None
        for line in held:
            self.log(line)

    def progress(self, elapsed_s: float) -> None:
        if elapsed_s < PROGRESS_AFTER_S or int(elapsed_s) == self._shown_s:
            return
        first, self._shown_s = not self._shown_s, int(elapsed_s)
        if self._rewrites:
            print(f"\rLoading the models ... {self._shown_s} s", end="", file=sys.stderr, flush=True)
        elif first or self._shown_s % 10 == 0:
            print(f"Loading the models ... {self._shown_s} s", file=sys.stderr, flush=True)

    def end_progress(self) -> None:
        if self._rewrites and self._shown_s:
            print(file=sys.stderr, flush=True)


def print_summary(server: Server, options: ServeOptions, elapsed_s: float) -> None:
    """Say on standard output where the server answers, what it serves, and how to try it."""
    name, precision = _describe_model(options.repository)
    print(f"Ready after {elapsed_s:.1f} s.")
    print(f"  gRPC     {server.grpc_address}")
    if server.http_address:
        print(f"  HTTP     {server.http_address}")
    if server.metrics_address:
        print(f"  metrics  {server.metrics_address}")
    print(f"  model    {name}, {precision}")
    if options.device == "gpu":
        print("  device   GPU, which answered the original's texts as the original did")
    if server.instances:
        print(f"  layout   {_describe_layout(server.instances, options)}")
    print(f"  cache    {_describe_cache(options.cache_size)}")
    url = [] if server.grpc_address == "127.0.0.1:8001" else ["--url", server.grpc_address]
    url += [] if options.tls_certificate is None else ["--tls"]
    print(f"Try it:    {shlex.join([*command('classify').split(), *url])} {_quoted(EXAMPLE_TEXT)}")
    print("Ctrl-C stops the server.", flush=True)


def _describe_model(repository: Path) -> tuple[str, str]:
    """Name and precision of the classifier's newest version, as its preparation wrote them down beside it."""
    versions = [folder for folder in repository.glob("classifier/[0-9]*") if folder.name.isdecimal()]
    newest = max(versions, key=lambda folder: int(folder.name), default=repository / "classifier" / "1")
    try:
        facts = json.loads((newest / "model.json").read_text(encoding="utf-8"))
        return str(facts.get("name", "rejection")), str(facts.get("precision", "unknown precision"))
    except (OSError, ValueError, AttributeError):
        return "rejection", "unknown precision"


def _describe_layout(instances: Mapping[str, int], options: ServeOptions) -> str:
    counts = ", ".join(f"{count} {model}" for model, count in sorted(instances.items()))
    return f"{counts} ({options.cores} core{'' if options.cores == 1 else 's'})"


def _describe_cache(size: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.4g} {unit} for repeated texts"
    return "off"


def _quoted(text: str) -> str:
    """In double quotes, as a person would type it; the text holds nothing that they would not protect."""
    return f'"{text}"'
