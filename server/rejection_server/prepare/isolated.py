"""Runs a step in a process of its own, so that its memory is given back when it is done."""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from rejection_server.graph.walk import GraphError
from rejection_server.prepare.errors import OutOfMemoryError, PrepareError, UnexpectedError
from rejection_server.wording import one_line

T = TypeVar("T")

_END_S = 10.0
"""How long a process that has answered may take to end by itself."""
# What allocators say that raise nothing narrower than RuntimeError.
_OUT_OF_MEMORY = ("bad_alloc", "can't allocate memory", "Failed to allocate memory", "std::length_error")

PRELOADED: tuple[str, ...] = (
    "onnxruntime",
    "torch",
    "transformers",
    "transformers.pipelines",
    "onnxscript",
    "torch.onnx._internal.exporter._core",  # what torch.onnx.export imports when it is called; missing, it is late
    "rejection_server.prepare.case",
)
"""What takes seconds to import, then our own steps. Absent ones are passed over."""


def isolated(function: Callable[..., T], *args: Any) -> T:
    """What `function` returns when a new process calls it; it must be a module's own function.

    The process ends with this call, also when the call is interrupted. Raises the function's PrepareError or
    GraphError; OutOfMemoryError when memory ran out or the process was killed, which is what happens then;
    UnexpectedError for whatever else ends the function or the process.
    """
    with begun(function, *args) as result:
        return result()


@contextlib.contextmanager
def begun(function: Callable[..., T], *args: Any) -> Iterator[Callable[[], T]]:
    """Has a new process call `function` while the block runs; what it gives waits for the result, as `isolated` does.

    The process ends with the block.
    """
    # Threads that spin while they wait for each other are slow where the processor is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A server that forks: importing PyTorch and pipelines takes seconds and is done once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sending, function, args), name=function.__name__)
    process.start()
    sending.close()

    def result() -> T:
        try:
            value, error = receiving.recv()
        except EOFError as exc:
            process.join(_END_S)
            raise _killed(process, function.__name__) from exc
        process.join(_END_S)
        if error is not None:
            raise error
        answer: T = value
        return answer

    try:
        yield result
    finally:
        process.kill()
        process.join()
        receiving.close()


def _killed(process: BaseProcess, name: str) -> PrepareError:
    """Why a process ended without an answer."""
    number = -(process.exitcode or 0)
    if number in (0, signal.SIGKILL):
        return OutOfMemoryError(
            f"the process that ran '{name}' was killed, most likely because memory ran out: "
            "free some, or prepare on a larger machine"
        )
    how = f"by {signal.Signals(number).name}" if number > 0 else f"with status {-number}"
    return UnexpectedError(name, f"its process ended {how}")


def _call(sending: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    # Semaphores made by libraries (tqdm makes one) are then removed by the system and need nobody to account for them.
    multiprocessing.set_start_method("fork", force=True)
    answer: tuple[Any, Exception | None]
    try:
        answer = (function(*args), None)
    except Exception as exc:
        traceback.print_exc()  # for --verbose
        answer = (None, exc if isinstance(exc, PrepareError | GraphError) else _told(exc, function.__name__))
    sending.send(answer)


def _told(exc: Exception, name: str) -> PrepareError:
    """An error in words alone: the other process may not have what its class needs."""
    if isinstance(exc, MemoryError) or any(words in str(exc) for words in _OUT_OF_MEMORY):
        return OutOfMemoryError(
            f"memory ran out in '{name}' ({one_line(exc, 120)}): free some, or prepare on a larger machine"
        )
    return UnexpectedError(name, f"{type(exc).__name__}: {one_line(exc)}")
