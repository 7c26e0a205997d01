"""What the logic needs of its surroundings, which are of two kinds: threads that block, and asyncio.

All else is written once, in `_core` and `_transport`, as coroutines. Over `ThreadRuntime` (in `_threads`) a coroutine
never suspends, because everything that it awaits blocks instead; `finish` runs it to its end in one step. Over
`AsyncioRuntime` (in `_aio`) it is an ordinary coroutine. Both offer the same methods.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from rejection_client._pipeline import Condition

T = TypeVar("T")

Metadata = Sequence[tuple[str, str]]


class ClosedError(Exception):
    """The client was closed before the call or during it."""

    def __init__(self, *, before_call: bool = False) -> None:
        super().__init__()
        self.before_call = before_call


class NoSignOfLifeError(Exception):
    """The server neither answered the call nor, asked meanwhile, said that it is alive."""


class Patience(Protocol):
    """What happens while an answer is late: every `check_s` seconds `is_alive` decides whether to go on waiting."""

    check_s: float

    async def is_alive(self) -> bool:
        """Whether it is worth to wait on."""
        ...


def finish(awaitable: Awaitable[T]) -> T:
    """Run a coroutine, or a step of an asynchronous generator, over `ThreadRuntime` to its end."""
    try:
        awaitable.__await__().send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise RuntimeError("a coroutine over threads must not suspend")


class Runtime(Protocol):
    """What the logic needs of its surroundings."""

    aio: bool

    def condition(self) -> Condition:
        """A condition for `Buffer`."""
        ...

    async def call(
        self, rpc: Any, request: Any, timeout_s: float, metadata: Metadata, patience: Patience | None
    ) -> Any:
        """Make one RPC. Raises grpc.RpcError, NoSignOfLifeError, ClosedError; ended early, it cancels the RPC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    async def look_up(self, host: str, port: int) -> list[str]:
        """IP addresses of a name; raises OSError."""
        ...

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Any:
        """Run a coroutine beside the caller, as one of the limited number of requests; returns a handle."""
        ...

    def start_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the caller that nobody waits for."""
        ...

    async def result(self, handle: Any) -> Any:
        """Wait for what was started, and give or raise what came of it."""
        ...

    def cancel(self, handle: Any) -> None:
        """Give up what was started, its RPC included."""
        ...

    def iterate(self, source: Any) -> AsyncIterator[Any]:
        """The items of an iterable."""
        ...

    async def close(self, channels: Sequence[Any]) -> None:
        """End everything that runs, and close the channels."""
        ...


def monotonic_s() -> float:
    """The clock of every deadline here."""
    return time.monotonic()
