"""A guard as a process: `python -m rejection_server.guard`.

Standard input: the settings as one line of JSON; then, for each further line, the counts are printed; its end stops
the guard, as SIGTERM and SIGINT do. Standard output, a line of JSON each: `{"port": ..., "pid": ...}` once it listens
(and `"metrics_port"`), or `{"error": ...}`; the counts; and `{"event": ...}` when Triton becomes `unresponsive` (it
does not answer, although it is connected) or `lost` (it cannot be reached), with the `seconds` since its last answer,
and `responsive` again; `unhealthy`, with Triton's `message`, when it gave up the process of a model; `failed` for
requests that end with another status than OK (see `reports`). An event that nobody reads for long is dropped. Calls
under way are answered before it ends. Where the settings ask for several processes, it starts the others (see `crew`),
and speaks for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import json
import logging
import os
import resource
import signal
import sys

from rejection_server.guard.crew import Crew
from rejection_server.guard.keys import SecretError
from rejection_server.guard.server import Guard
from rejection_server.guard.settings import GuardSettings, SettingsError
from rejection_server.guard.tls import TlsError
from rejection_server.guard.turns import TurnLoop
from rejection_server.host.errors import GuardError, HostError

ANSWER_S = 1.0
"""For the other guards to say their counts."""


def main() -> int:
    """Serve until told to stop; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="guard: %(message)s")
    try:
        with asyncio.Runner(loop_factory=TurnLoop) as runner:
            runner.run(_serve())
    except (SettingsError, SecretError, TlsError, HostError, OSError) as exc:
        _tell({"error": str(exc)})
        return 1
    return 0


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    os.set_blocking(sys.stdout.fileno(), False)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    given = GuardSettings.from_json((await commands.readline()).decode())
    settings = given.share if given.processes > 1 else given
    _bound_descriptors(settings)
    stop = asyncio.Event()
    crew = Crew(_tell, stop.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Guard(settings, on_event=_tell) as guard:
        if given.processes > 1:
            alike = dataclasses.replace(settings, port=guard.port, metrics_port=None, measures_parent=False)
            await crew.start(alike, given.processes - 1)
            guard.others = crew.snapshots
        told: dict[str, object] = {"port": guard.port, "pid": os.getpid()}
        if guard.metrics_port is not None:
            told["metrics_port"] = guard.metrics_port
        # Nearly nothing of a call has to be searched for: what is left of it goes when it ends.
        gc.freeze()
        gc.set_threshold(20_000, 50, 50)
        _tell(told)
        follower = loop.create_task(_follow(commands, guard, stop))
        await stop.wait()
        follower.cancel()
        crew.request_stop()
    await crew.wait()
    if crew.has_lost:
        raise GuardError("one of the guards ended")


def _bound_descriptors(settings: GuardSettings) -> None:
    # Connections count from the end of their TLS handshake on; before, this is what bounds them.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * settings.max_connections + 256
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


async def _follow(commands: asyncio.StreamReader, guard: Guard, stop: asyncio.Event) -> None:
    while await commands.readline():
        # Of one that does not answer, nor would this one: then the launcher ends them.
        with contextlib.suppress(TimeoutError, GuardError):
            async with asyncio.timeout(ANSWER_S):
                _tell((await guard.total()).to_dict())
    stop.set()


def _tell(message: dict[str, object]) -> None:
    # A launcher that was stopped (Ctrl-Z) must not stop the guard when the pipe is full.
    with contextlib.suppress(BrokenPipeError, BlockingIOError):
        os.write(sys.stdout.fileno(), f"{json.dumps(message)}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
