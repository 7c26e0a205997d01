"""A bounded buffer between the stages of a stream, the same for threads and for coroutines."""

import asyncio
import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class ThreadCondition:
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


class Closed(Exception):  # noqa: N818  # ends a stage, tells of nothing wrong
    """The reader of the buffer went away."""


class Buffer(Generic[T]):
    """Items in order from one writer to one reader, `capacity` at most."""

    def __init__(self, condition: ThreadCondition | asyncio.Condition, capacity: int) -> None:
        self._condition = condition
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None

    async def room(self) -> None:
        """Wait until one more item fits; raises Closed once the reader is gone."""
        async with self._condition:
            while len(self._items) >= self._capacity and not self._closed:
                await self._condition.wait()
            if self._closed:
                raise Closed

    async def put(self, item: T) -> None:
        """Add an item, waiting for room; raises Closed once the reader is gone."""
        await self.room()
        async with self._condition:
            self._items.append(item)
            self._condition.notify_all()

    async def end(self, error: BaseException | None = None) -> None:
        """Say that no more comes, and what the reader is to raise after the last item."""
        async with self._condition:
            self._ended = True
            self._error = error
            self._condition.notify_all()

    async def first(self) -> T | None:
        """Wait for the next item and leave it there; None after the last."""
        async with self._condition:
            while not self._items and not self._ended and not self._closed:
                await self._condition.wait()
            if self._items:
                return self._items[0]
            if self._error is not None:
                raise self._error
            return None

    async def take(self, limit: int = 1) -> list[T]:
        """Wait for the next item, then take what is there, `limit` at most; an empty list after the last."""
        if await self.first() is None:
            return []
        async with self._condition:
            taken = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
            self._condition.notify_all()
            return taken

    async def close(self) -> list[T]:
        """End both sides; returns what was left in it."""
        async with self._condition:
            self._closed = True
            left = list(self._items)
            self._items.clear()
            self._condition.notify_all()
            return left
