"""The runtime of `RejectionClient`: everything that is awaited blocks the calling thread."""

import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import grpc

from rejection_client._runtime import ClosedError, Metadata, NoSignOfLifeError, Patience, finish
from rejection_client.channels import ip_addresses

T = TypeVar("T")


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

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.future.done()

    def cancel(self) -> None:
        """Give it up, and its RPC."""
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
    event = threading.Event
    """Makes a flag that one side sets and another waits for."""

    def __init__(self, concurrency: int) -> None:
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="rejection_client")
        self._local = threading.local()
        self._closing = threading.Event()

    async def wait(self, event: Any) -> None:
        """Wait until it is set."""
        event.wait()

    async def call(
        self, rpc: Any, request: Any, timeout_s: float, metadata: Metadata, patience: Patience | None
    ) -> Any:
        """Make one RPC. Raises grpc.RpcError, NoSignOfLifeError, ClosedError; ended early, it cancels the RPC."""
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
        """Wait; raises ClosedError."""
        if self._closing.wait(seconds):
            raise ClosedError

    async def look_up(self, host: str, port: int, timeout_s: float) -> list[str]:
        """IP addresses of a name; raises OSError, TimeoutError among them."""
        found: Future[list[str]] = Future()

        def ask() -> None:
            try:
                found.set_result(ip_addresses(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
            except BaseException as error:
                found.set_exception(error)

        # It takes no timeout, and may take long. A daemon, for it must not hold the process at its end.
        threading.Thread(target=ask, daemon=True, name="rejection_client look-up").start()
        return found.result(timeout_s)

    def start(self, coroutine: Coroutine[Any, Any, T], on_done: Callable[[], object] = bool) -> _Started[T]:
        """Run a coroutine beside the caller, as one of the limited number of requests; returns a handle."""
        started = _Started(coroutine)
        try:
            started.future = self._pool.submit(self._run, started)
        except RuntimeError as error:  # the pool's sign for a closed one
            coroutine.close()
            raise ClosedError(before_call=True) from error
        started.future.add_done_callback(lambda _: on_done())
        return started

    def _run(self, started: _Started[T]) -> T:
        self._local.started = started
        return finish(started.coroutine)

    def start_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the caller that nobody waits for."""
        # Daemons: whoever reads an endless input must not hold the process at its end.
        threading.Thread(target=finish, args=(coroutine,), daemon=True, name="rejection_client background").start()

    async def result(self, handle: Any) -> Any:
        """Wait for what was started, and give or raise what came of it."""
        try:
            return handle.future.result()
        except CancelledError as error:
            raise ClosedError from error

    async def iterate(self, source: Iterable[T]) -> AsyncIterator[T]:
        """The items of an iterable."""
        for item in source:
            yield item

    async def close(self, channels: Sequence[Any]) -> None:
        """End everything that runs, and close the channels."""
        self._closing.set()
        self._pool.shutdown(wait=False)
        for channel in channels:
            channel.close()
