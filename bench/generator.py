"""The load generator's process: apart from the harness, so that its CPU is its own, and apart from what it measures.

The harness starts it with `Generator(target.caller)` and has loads run by it; both sides speak over a pipe.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from bench.contract import Caller
from bench.load import Load, Result, run

STOP_S = 10.0


class GeneratorError(RuntimeError):
    """The load generator's process failed; the message says how."""


class Generator:
    """A process that sends load to one target, for as long as the context is open."""

    def __init__(self, caller: Callable[[], AbstractAsyncContextManager[Caller]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, caller), daemon=True)
        self._process.start()
        other.close()

    def run(self, load: Load, reference: Any, on_mark: Callable[[str], None]) -> Result:
        """Have a load run; `on_mark` is called as the window begins ("begin") and ends ("end").

        Raises:
            GeneratorError: The caller could not be opened, or the process ended.
        """
        try:
            self._pipe.send((load, reference))
            while True:
                kind, value = self._pipe.recv()
                if kind == "mark":
                    on_mark(value)
                    self._pipe.send(None)
                elif kind == "result":
                    result: Result = value
                    return result
                else:
                    raise GeneratorError(value)
        except (EOFError, OSError) as exc:
            raise GeneratorError(f"the load generator ended with status {self._process.exitcode}") from exc

    def __enter__(self) -> "Generator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(STOP_S if kind is None else 0.5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection, caller: Callable[[], AbstractAsyncContextManager[Caller]]) -> None:
    # Ctrl-C goes to the harness, which closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(_work(pipe, caller))
    except (EOFError, OSError):
        return
    except Exception as exc:  # told to the harness, in whose words it is reported
        pipe.send(("error", f"{type(exc).__name__}: {exc}"))
    finally:
        # Channels of half-open calls would be waited for.
        os._exit(0)


async def _work(pipe: Connection, caller: Callable[[], AbstractAsyncContextManager[Caller]]) -> None:
    loop = asyncio.get_running_loop()

    async def mark(name: str) -> None:
        pipe.send(("mark", name))
        # Answered at once; the loop goes on meanwhile, callers are served.
        await loop.run_in_executor(None, pipe.recv)

    async with caller() as call:
        while True:
            load, reference = await loop.run_in_executor(None, pipe.recv)
            pipe.send(("result", await run(call, load, reference, mark)))
