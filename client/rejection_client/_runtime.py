"""What the two surroundings of the logic share: threads that block (`_threads`), and asyncio (`_aio`).

All else is written once, in `_core` and `_transport`, as coroutines over a runtime. Over `ThreadRuntime` a coroutine
never suspends, because everything that it awaits blocks instead; `finish` runs it to its end in one step. Over
`AsyncioRuntime` it is an ordinary coroutine. Both have the same methods, described at `ThreadRuntime`.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")

Metadata = Sequence[tuple[str, str]]


class ClosedError(Exception):
    """The client was closed before the call or during it."""

    def __init__(self, *, before_call: bool = False) -> None:
        super().__init__()
        self.before_call = before_call


class NoSignOfLifeError(Exception):
    """The server neither answered the call nor, asked meanwhile, said that it is alive."""


class Patience(NamedTuple):
    """What happens while an answer is late: every `check_s` seconds `is_alive` decides whether to go on waiting."""

    check_s: float
    is_alive: Callable[[], Awaitable[bool]]


def finish(awaitable: Awaitable[T]) -> T:
    """Run a coroutine, or a step of an asynchronous generator, over `ThreadRuntime` to its end."""
    try:
        awaitable.__await__().send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise RuntimeError("a coroutine over threads must not suspend")
