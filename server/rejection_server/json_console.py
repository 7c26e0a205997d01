"""What `serve --log-format json` writes: each event as a line of JSON."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rejection_server import __version__
from rejection_server.console import Console, describe_event
from rejection_server.facts import told_of
from rejection_server.host.triton_log import read_line

if TYPE_CHECKING:
    from rejection_server.host import ServeOptions, Server

__all__ = ["JsonConsole"]

GUARD_PREFIX = "guard: "
_REPEATED = re.compile(r"\.\.\. repeated (\d+) times: ")
_TELEMETRY = re.compile(r"\[(Error|Warning)\] File: \S+ ")


class JsonConsole(Console):
    """Writes for a program: to standard error alone, a line of JSON each, with `time`, `level`, `logger`, `message`."""

    def __init__(self, log_level: str) -> None:
        super().__init__(log_level)
        logging.basicConfig(handlers=[_JsonHandler()], level=logging.WARNING)

    def show(self, line: str) -> None:
        """Write a line of the log."""
        count = _REPEATED.match(line)
        fields = {} if count is None else {"repeated": int(count[1])}
        line = line if count is None else line[count.end() :]
        found = read_line(line)
        if found is not None:
            level, source, message = found
            _write(level, "triton", message, source=source, **fields)
        elif line.startswith(GUARD_PREFIX):
            _write("warning", "guard", line.removeprefix(GUARD_PREFIX), **fields)
        elif (told := _TELEMETRY.match(line)) is not None:
            _write(told[1].lower(), "opentelemetry", line[told.end() :], **fields)
        elif line.strip():
            _write("info", "triton", line, **fields)  # what a model's process, or a library, prints by itself

    def say(self, sentence: str, level: str = "error") -> None:
        """Something of the server's own for whoever runs it."""
        _write(level, "serve", sentence)

    def tell(self, event: Mapping[str, Any], level: str) -> None:
        """Write what the guard tells."""
        fields = {name: value for name, value in event.items() if name != "message"}
        _write(
            level,
            "serve" if event["event"] == "exchanged" else "guard",
            event.get("message") or describe_event(event),
            **fields,
        )

    def stopping(self, sentence: str) -> None:
        """Say so within a signal handler."""
        _write("info", "serve", sentence, event="stopping")

    def progress(self, elapsed_s: float) -> None:
        """Of no interest to a program, which waits for `ready`."""

    def ready(self, server: Server, options: ServeOptions, elapsed_s: float) -> None:
        """The server answers."""
        told = told_of(options.repository)
        _write(
            "info",
            "serve",
            f"ready after {elapsed_s:.1f} s",
            event="ready",
            grpc=server.bound["gRPC"],
            http=server.bound.get("HTTP"),
            metrics=server.bound.get("metrics"),
            tls=options.tls_cert is not None,
            models={
                each.names.public: {"model": each.model, "precision": each.precision, "labels": each.labels}
                for each in told
            },
            device=options.device,
            gpus=list(server.gpus) or None,
            instances=dict(server.instances) or None,
            cores=dict(server.shares) or None,
            cache_bytes=options.cache_size,
            version=__version__,
        )


class _JsonHandler(logging.Handler):
    """What this process logs by itself."""

    def emit(self, record: logging.LogRecord) -> None:
        _write(record.levelname.lower(), record.name, self.format(record))


def _write(level: str, logger: str, message: object, **fields: object) -> None:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    event = {"time": time, "level": level, "logger": logger, "message": message}
    event |= {name: value for name, value in fields.items() if value is not None}
    # In one piece, by whatever thread, and in a signal handler, too.
    os.write(2, f"{json.dumps(event)}\n".encode())
