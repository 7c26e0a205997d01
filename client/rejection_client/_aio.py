"""The runtime of `AsyncRejectionClient`: everything that is awaited suspends the calling task."""

import asyncio
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import grpc

from rejection_client._runtime import ClosedError, Metadata, NoSignOfLifeError, Patience
from rejection_client.channels import ip_addresses

T = TypeVar("T")


class AsyncioRuntime:
    """Suspends the calling task; what runs beside it are tasks of the same event loop."""

    aio = True
    event = asyncio.Event

    def __init__(self, concurrency: int) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def wait(self, event: Any) -> None:
        await event.wait()

    async def call(
        self, rpc: Any, request: Any, timeout_s: float, metadata: Metadata, patience: Patience | None
    ) -> Any:
        try:
            call = rpc(request, timeout=timeout_s, metadata=metadata)
            if patience is None:
                return await call
            return await _wait_patiently(call, patience)
        except grpc.aio.UsageError as error:  # gRPC's sign for a closed channel
            raise ClosedError(before_call=True) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise ClosedError from error
            raise

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._closed:
            raise ClosedError

    async def look_up(self, host: str, port: int, timeout_s: float) -> list[str]:
        found = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return ip_addresses(await asyncio.wait_for(found, timeout_s))

    def start(self, coroutine: Coroutine[Any, Any, T], on_done: Callable[[], object] = bool) -> asyncio.Task[T]:
        task = self._keep(asyncio.create_task(self._in_slot(coroutine)))
        task.add_done_callback(lambda _: coroutine.close())  # one that was cancelled before it ran
        task.add_done_callback(lambda _: on_done())
        return task

    async def _in_slot(self, coroutine: Coroutine[Any, Any, T]) -> T:
        async with self._slots:
            return await coroutine

    def start_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._keep(asyncio.create_task(coroutine))

    def _keep(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever waits for it, if anyone does, has it too

    async def result(self, handle: Any) -> Any:
        try:
            return await handle
        except asyncio.CancelledError as error:
            if handle.cancelled() and self._closed:
                raise ClosedError from error
            raise

    async def iterate(self, source: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
        if isinstance(source, AsyncIterable):
            async for item in source:
                yield item
        else:
            for item in source:
                yield item

    async def close(self, channels: Sequence[Any]) -> None:
        self._closed = True
        for task in list(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()
        for channel in channels:
            await channel.close()


async def _wait_patiently(call: Any, patience: Patience) -> Any:
    task = asyncio.ensure_future(call)
    try:
        while not (await asyncio.wait({task}, timeout=patience.check_s))[0]:
            if not await patience.is_alive():
                raise NoSignOfLifeError
        return task.result()
    finally:
        task.cancel()  # nothing, if it is done
