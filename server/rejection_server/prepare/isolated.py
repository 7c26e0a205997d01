"""Runs a step in a process of its own, so that its memory is given back when it is done."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from rejection_server.prepare.errors import PrepareError

T = TypeVar("T")


def isolated(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What `function` returns or raises when a new process calls it; it must be a module's own function.

    The process ends with this call, also when the call is interrupted. Raises PrepareError when it was killed, which is
    what happens when memory runs out.
    """
    # Threads that spin while they wait for each other are slow where the processor is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A server that forks: importing PyTorch takes seconds and is done once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["onnxruntime", "torch", "transformers"])
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sending, function, args, kwargs), name=function.__name__)
    process.start()
    sending.close()
    try:
        result, error = receiving.recv()
    except EOFError as exc:
        raise PrepareError(
            f"the process that ran '{function.__name__}' was killed, most likely because memory ran out: "
            "free some, or prepare on a larger machine"
        ) from exc
    finally:
        process.kill()
        process.join()
        receiving.close()
    if error is not None:
        raise error
    value: T = result
    return value


def _call(sending: Connection, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    answer: tuple[Any, Exception | None]
    try:
        answer = (function(*args, **kwargs), None)
    except Exception as exc:
        answer = (None, exc)
    try:
        sending.send(answer)
    except Exception as exc:  # an error that cannot be sent is told in words
        sending.send((None, PrepareError(f"'{function.__name__}' failed: {answer[1] or exc!r}")))
