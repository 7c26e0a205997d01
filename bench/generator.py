"""The load generator's process: apart from the harness, so that its CPU is its own, and apart from what it measures.

The harness starts it with `Generator(target.caller)` and has loads run by it; both sides speak over a pipe.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from bench.contract import OpenCaller
from bench.figures import Floats
from bench.load import Load, Result, run

STOP_S = 10.0


class GeneratorError(RuntimeError):
    """The load generator's process failed; the message says how."""


class Generator:
    """A process that sends load to one target, for as long as the context is open."""

    def __init__(self, caller: OpenCaller) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, caller), daemon=True)
        self._process.start()
        other.close()

    def run(self, load: Load, reference: Floats, on_mark: Callable[[str], None] = lambda _: None) -> Result:
        """Have a load run; `on_mark` is called as the window begins ("begin") and ends ("end").

        Raises:
            GeneratorError: The caller could not be opened, or the process ended.
        """
        try:
            self._pipe.send((load, reference))
            while isinstance(said := self._pipe.recv(), str):
                on_mark(said)
                self._pipe.send(None)
        except (EOFError, OSError) as exc:
            raise GeneratorError(f"the load generator ended with status {self._process.exitcode}") from exc
        if isinstance(said, GeneratorError):
            raise said
        result: Result = said
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(STOP_S if kind is None else 0.5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection, caller: OpenCaller) -> None:
    # Ctrl-C goes to the harness, which closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(_work(pipe, caller))
    except (EOFError, OSError):
        return
    except Exception as exc:  # told to the harness, in whose words it is reported
        pipe.send(GeneratorError(f"{type(exc).__name__}: {exc}"))
    finally:
        # Channels of half-open calls would be waited for.
        os._exit(0)


async def _work(pipe: Connection, caller: OpenCaller) -> None:
    loop = asyncio.get_running_loop()

    async def mark(name: str) -> None:
        pipe.send(name)
        # Answered at once; the loop goes on meanwhile, callers are served.
        await loop.run_in_executor(None, pipe.recv)

    async with caller() as call:
        while True:
            load, reference = await loop.run_in_executor(None, pipe.recv)
            pipe.send(await run(call, load, reference, mark))
