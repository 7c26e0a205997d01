"""A stream of texts: read ahead, sent in as many requests at once as are allowed, answered in order; over a runtime.

The stream itself and the reader of its texts run beside each other, in two threads or two tasks, and wake each other
by two events. What is read is a place in the stream and the answer that it waits for; places of equal texts wait for
the same answer.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import Any, Protocol

from rejection_client._prediction import Prediction, Result
from rejection_client._repeats import Answer, Found, Repeats
from rejection_client._runtime import ClosedError
from rejection_client._transport import Runtime
from rejection_client.errors import InvalidInputError, RejectionError

READS_AHEAD = 2
"""Requests' worth of texts that are read ahead of those under way."""


class Request(Protocol):
    """Classifies some texts in one request; `rows` are their places in the stream."""

    def __call__(self, texts: list[str], rows: list[int]) -> Awaitable[list[Prediction]]: ...


class Ask(Protocol):
    """Has some texts answered, by one model or several; fails for none of them."""

    def __call__(self, texts: list[str], rows: list[int]) -> Awaitable[list[tuple[Found, ...]]]: ...


class Stream:
    """One stream, with at most `size` texts in a request and `concurrency` requests under way."""

    def __init__(self, runtime: Runtime, ask: Ask, size: int, concurrency: int) -> None:
        self._io = runtime
        self._ask = ask
        self._size = size
        self._concurrency = concurrency
        self._repeats = Repeats()
        self._places: deque[tuple[str, int, Answer]] = deque()
        """Read, and without a result yet."""
        self._waiting: deque[tuple[str, Answer]] = deque()
        """Of these, what is not sent yet."""
        self._under_way: deque[Any] = deque()
        self._news = runtime.event()
        """Set when there is something to do for the stream."""
        self._room = runtime.event()
        """Set when the reader may go on."""
        self._ended = False
        self._error: BaseException | None = None
        """What the iterable raised at its end."""
        self._closed = False

    async def results(self, texts: Any) -> AsyncGenerator[list[Result], None]:
        """The results in order, of each text one by each model.

        Raises what the iterable raises, after the results before it; ClosedError.
        """
        self._io.start_background(self._read(texts))
        try:
            while self._places or not self._ended:
                self._news.clear()
                done = self._under_way.popleft() if self._under_way and self._under_way[0].done() else None
                self._send()  # first, for whoever takes the results may take its time
                if done is not None:
                    await self._io.result(done)
                while self._places and self._places[0][2].found:
                    text, index, answer = self._places.popleft()
                    self._room.set()
                    yield answer.results(index, text)
                    if self._under_way and self._under_way[0].done():
                        break  # there may be more to send
                if done is None and (self._places or not self._ended):
                    await self._io.wait(self._news)
            if self._error is not None:
                raise self._error
        finally:
            self._closed = True
            self._room.set()
            for handle in self._under_way:
                handle.cancel()

    def _send(self) -> None:
        """Send what was read, without waiting for a request to fill."""
        while self._waiting and len(self._under_way) < self._concurrency:
            batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            self._under_way.append(self._io.start(self._classify(batch), on_done=self._news.set))
            self._room.set()

    async def _read(self, texts: Any) -> None:
        """Read as far ahead as there is room."""
        index = 0
        try:
            async for text in self._io.iterate(texts):
                while self._is_full():
                    await self._io.wait(self._room)
                if self._closed:
                    return
                answer, is_new = self._repeats.answer_of(text, index)
                if is_new:
                    self._waiting.append((text, answer))
                self._places.append((text, index, answer))
                self._news.set()
                index += 1
        except asyncio.CancelledError:  # by `close` of the client
            self._error = ClosedError()
        except BaseException as error:
            self._error = error
        finally:
            self._ended = True
            self._news.set()

    def _is_full(self) -> bool:
        self._room.clear()  # before the look, so that what happens after it is not missed
        is_full = (
            len(self._waiting) >= READS_AHEAD * self._size
            or len(self._places) >= (READS_AHEAD + self._concurrency) * self._size
        )
        return is_full and not self._closed

    async def _classify(self, batch: list[tuple[str, Answer]]) -> None:
        """Have some texts answered."""
        rows = [answer.index for _, answer in batch]
        for (_, answer), found in zip(batch, await self._ask([text for text, _ in batch], rows), strict=True):
            answer.found = found


async def each(request: Request, texts: Sequence[str], rows: Sequence[int]) -> list[Found]:
    """Classify some texts in one request, and in more if it fails: a text that the server refuses fails alone."""
    found: dict[int, Found] = {}
    groups = [list(zip(texts, rows, strict=True))]
    while groups:
        group = groups.pop()
        places = [row for _, row in group]
        try:
            found.update(zip(places, await request([text for text, _ in group], places), strict=True))
        except InvalidInputError as error:
            if error.row in places:
                found[error.row] = error
                groups += [rest] if (rest := [(text, row) for text, row in group if row != error.row]) else []
            elif len(group) == 1:
                found[places[0]] = error
            else:  # the server does not say which
                middle = len(group) // 2
                groups += [group[:middle], group[middle:]]
        except RejectionError as error:
            found.update(dict.fromkeys(places, error))
    return [found[row] for row in rows]
