"""The runtime of `RejectionClient`: everything that is awaited blocks the calling thread."""

import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import grpc

from rejection_client._pipeline import Condition
from rejection_client._runtime import ClosedError, Metadata, NoSignOfLifeError, Patience, finish
from rejection_client.channels import ip_addresses

T = TypeVar("T")


class _ThreadCondition:
    """`threading.Condition` with the methods of `asyncio.Condition`."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.notify_all = self._condition.notify_all

    async def __aenter__(self) -> None:
        self._condition.acquire()

    async def __aexit__(self, *error: object) -> None:
        self._condition.release()

    async def wait(self) -> None:
        self._condition.wait()


class _Started(Generic[T]):
    """A coroutine that another thread runs."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.coroutine = coroutine
        self.future: Future[T]
        self._lock = threading.Lock()
        self._rpc: Any = None
        self._cancelled = False

    def attach(self, rpc: Any) -> None:
        """Remember the RPC under way."""
        with self._lock:
            self._rpc = rpc
            if not self._cancelled:
                return
        rpc.cancel()

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            rpc = self._rpc
        if self.future.cancel():
            self.coroutine.close()
        elif rpc is not None:
            rpc.cancel()


class ThreadRuntime:
    """Blocks the calling thread; what runs beside it has threads of its own."""

    aio = False

    def __init__(self, concurrency: int) -> None:
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="rejection_client")
        self._local = threading.local()
        self._closing = threading.Event()

    def condition(self) -> Condition:
        return _ThreadCondition()

    async def call(
        self, rpc: Any, request: Any, timeout_s: float, metadata: Metadata, patience: Patience | None
    ) -> Any:
        started: _Started[Any] | None = getattr(self._local, "started", None)
        try:
            if started is None and patience is None:
                return rpc(request, timeout=timeout_s, metadata=metadata)  # half the cost of a future
            future = rpc.future(request, timeout=timeout_s, metadata=metadata)
        except ValueError as error:  # gRPC's sign for a closed channel
            raise ClosedError(before_call=True) from error
        try:
            if started is not None:
                started.attach(future)
            while patience is not None:
                try:
                    return future.result(timeout=patience.check_s)
                except grpc.FutureTimeoutError as error:
                    if not await patience.is_alive():
                        raise NoSignOfLifeError from error
            return future.result()
        except grpc.FutureCancelledError as error:
            raise ClosedError from error
        finally:
            future.cancel()  # nothing, if it is done

    async def sleep(self, seconds: float) -> None:
        if self._closing.wait(seconds):
            raise ClosedError

    async def look_up(self, host: str, port: int) -> list[str]:
        return ip_addresses(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    def start(self, coroutine: Coroutine[Any, Any, T]) -> _Started[T]:
        started = _Started(coroutine)
        try:
            started.future = self._pool.submit(self._run, started)
        except RuntimeError as error:  # the pool's sign for a closed one
            coroutine.close()
            raise ClosedError(before_call=True) from error
        return started

    def _run(self, started: _Started[T]) -> T:
        self._local.started = started
        return finish(started.coroutine)

    def start_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        # Daemons: whoever reads an endless input must not hold the process at its end.
        threading.Thread(target=finish, args=(coroutine,), daemon=True, name="rejection_client background").start()

    async def result(self, handle: _Started[T]) -> T:
        try:
            return handle.future.result()
        except CancelledError as error:
            raise ClosedError from error

    def cancel(self, handle: _Started[Any]) -> None:
        handle.cancel()

    async def iterate(self, source: Iterable[T]) -> AsyncIterator[T]:
        for item in source:
            yield item

    async def close(self, channels: Sequence[Any]) -> None:
        self._closing.set()
        self._pool.shutdown(wait=False)
        for channel in channels:
            channel.close()
