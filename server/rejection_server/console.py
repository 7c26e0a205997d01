"""What the command `serve` shows: Triton's log, the progress of loading, and where the server is once it is ready."""

from __future__ import annotations

import collections
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rejection_server.commands import command
from rejection_server.facts import Told, told_of
from rejection_server.names import DEFAULT, PARTS
from rejection_server.parser import PROG
from rejection_server.wording import printable

if TYPE_CHECKING:
    from rejection_server.host import ServeOptions, Server

__all__ = ["Console", "describe_event"]

EXAMPLE_TEXT = "Sorry, but I can't assist with that."
PROGRESS_AFTER_S = 2.0
MOST_LABELS = 4
"""Labels of a classifier that are named where there are several classifiers."""
_FAULTS = ("INTERNAL", "UNKNOWN", "DATA_LOSS")


class Console:
    """Writes for a person: to standard error, and where the server is to standard output.

    While the models load, the log of a quiet start is held back: if a model fails, one sentence says why.
    """

    def __init__(self, log_level: str) -> None:
        self._least = "error" if log_level == "error" else "warning"
        self._held: list[str] | None = [] if log_level in ("error", "warning") else None
        self._rewrites = sys.stderr.isatty() and not self._held
        self._shown_s = 0

    def log(self, line: str) -> None:
        """A line of Triton's log, or of the guard's."""
        if self._held is None:
            self.show(line)
        else:
            self._held.append(line)

    def release_log(self) -> None:
        """Show what was held back, and hold nothing back any more."""
        held, self._held = self._held or [], None
        for line in held:
            self.show(line)

    def show(self, line: str) -> None:
        """Write a line of the log."""
        print(line, file=sys.stderr, flush=True)

    def say(self, sentence: str, level: str = "error") -> None:  # noqa: ARG002 - a sentence says itself how bad it is
        """Something of the server's own for whoever runs it."""
        print(f"{PROG}: {sentence}", file=sys.stderr, flush=True)

    def event(self, event: Mapping[str, Any]) -> None:
        """Something that the guard tells, or that a version took over."""
        level = level_of(event)
        if level == "error" or self._least != "error":
            self.tell(event, level)

    def tell(self, event: Mapping[str, Any], level: str) -> None:
        """Write what the guard tells."""
        self.say(printable(describe_event(event)), level)  # callers choose names in it

    def stopping(self, sentence: str) -> None:
        """Say so within a signal handler: not by `print`, for the signal may have come in the middle of one."""
        os.write(2, f"\n{sentence}\n".encode())

    def progress(self, elapsed_s: float) -> None:
        """The models are being loaded."""
        if elapsed_s < PROGRESS_AFTER_S or int(elapsed_s) == self._shown_s:
            return
        first, self._shown_s = not self._shown_s, int(elapsed_s)
        if self._rewrites:
            print(f"\rLoading the models ... {self._shown_s} s", end="", file=sys.stderr, flush=True)
        elif first or self._shown_s % 10 == 0:
            print(f"Loading the models ... {self._shown_s} s", file=sys.stderr, flush=True)

    def step(self, line: str) -> None:
        """Something that takes its time before the models are loaded."""
        self.say(line, "info")

    def end_progress(self) -> None:
        """They are loaded, or will not be."""
        if self._rewrites and self._shown_s:
            print(file=sys.stderr, flush=True)

    def ready(self, server: Server, options: ServeOptions, elapsed_s: float) -> None:
        """The server answers."""
        _print_summary(server, options, elapsed_s)


def level_of(event: Mapping[str, Any]) -> str:
    """`error` for what is the server's own fault, `warning` for what a caller or the load did."""
    is_fault = event["event"] not in ("failed", "responsive", "exchanged") or event.get("code") in _FAULTS
    return "error" if is_fault else "warning"


def describe_event(event: Mapping[str, Any]) -> str:
    """What the guard tells, or a version that took over, as a sentence."""
    if event["event"] == "exchanged":
        return str(event["message"])
    if event["event"] != "failed":
        after = f" after {event['seconds']} s without an answer" if "seconds" in event else ""
        return f"Triton is {event['event']}{after}"
    untold = event.get("untold", 0)
    if "message" not in event:
        return f"{event['code']}: {untold} more request{'' if untold == 1 else 's'} ended so"
    of = "".join(f", {name} {event[name]!r}" for name in ("model", "id") if name in event)
    more = f" ({untold} more ended so before)" if untold else ""
    return f"{event['code']} to {event['peer']}, {event['method']}{of}: {event['message']}{more}"


def _print_summary(server: Server, options: ServeOptions, elapsed_s: float) -> None:
    told = told_of(options.repository)
    print(f"Ready after {elapsed_s:.1f} s.")
    for service, address in server.bound.items():
        print(f"  {service:8} {address}")
    for line in _describe_models(told, server.instances):
        print(line)
    if options.device == "gpu":
        print(f"  device   {_describe_gpus(server.gpus)}: the original's texts were answered as the original did")
    if server.instances:
        print(f"  layout   {_describe_layout(server, options)}")
    print(f"  cache    {_describe_cache(options.cache_size)}")
    model = [] if told[0].names.public == DEFAULT else ["--model", told[0].names.public]
    url = [] if server.grpc_address == "127.0.0.1:8001" else ["--url", server.grpc_address]
    url += [] if options.tls_cert is None else ["--tls"]
    url += [] if options.tls_client_ca is None else ["--cert", "YOUR.pem", "--key", "YOUR.key"]
    url += [] if options.token_file is None else ["--token-file", str(options.token_file)]
    print(f"Try it:    {shlex.join([*command('classify').split(), *model, *url])} {_quoted(EXAMPLE_TEXT)}")
    print("Ctrl-C stops the server.", flush=True)


def _describe_models(told: list[Told], instances: Mapping[str, int]) -> list[str]:
    """A line for each classifier; the only one's labels and instances need no line of their own."""
    if len(told) == 1:
        return [f"  model    {told[0].model}, {told[0].precision}"]
    width = max(len(each.names.public) for each in told)
    lines: list[str] = []
    for each in told:
        more = ", ..." if len(each.labels) > MOST_LABELS else ""
        labels = ", ".join(each.labels[:MOST_LABELS]) + more
        counts = {
            part: instances[getattr(each.names, part)] for part in PARTS if getattr(each.names, part) in instances
        }
        facts = [f"{each.model}, {each.precision}", labels, _counted(counts)]
        title = "  models  " if not lines else " " * 10
        lines.append(f"{title} {each.names.public:{width}}  {'; '.join(filter(None, facts))}")
    return lines


def _describe_layout(server: Server, options: ServeOptions) -> str:
    cores = f"{options.cores} core{'' if options.cores == 1 else 's'}"
    guards = f", {options.guards} guards" if options.guard and options.guards > 1 else ""
    if len(server.shares) < 2:
        return f"{_counted(server.instances)}{guards} ({cores})"
    parts = ", ".join(f"{name} {count}" for name, count in server.shares.items())
    if sum(server.shares.values()) > (options.cores or 0):
        return f"one instance each, which is more than {cores}{guards}"
    return f"{cores} shared out: {parts}{guards}"


def _counted(instances: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {model}" for model, count in sorted(instances.items()))


def _describe_gpus(names: Sequence[str]) -> str:
    """Such as 2 x NVIDIA L4."""
    counted = collections.Counter(names)
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counted.items())


def _describe_cache(size: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.4g} {unit} for repeated texts"
    return "off"


def _quoted(text: str) -> str:
    """In double quotes, as a person would type it; the text holds nothing that they would not protect."""
    return f'"{text}"'
