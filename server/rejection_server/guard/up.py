"""The connections to Triton: calls of one message and one answer, never cancelled.

Triton 2.51 may die of a call that is cancelled while it is answered, so a call that Triton has runs to its end,
whoever still waits for it. A call that waits here for its turn is dropped when its caller leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from ctypes import byref
from typing import Protocol

from rejection_server.guard import callbacks, nghttp2, session
from rejection_server.guard.admission import Admission, Queue
from rejection_server.guard.nghttp2 import FrameHead, Headers
from rejection_server.guard.refusal import Code, Refusal, percent_decoded
from rejection_server.guard.session import Session, Stream
from rejection_server.guard.settings import UNIX, GuardSettings, ModelLimits

__all__ = ["Exchange", "Lane", "Owner", "Upstream"]

_log = logging.getLogger(__name__)

MAX_PASSED = 1024
"""Calls other than inference that Triton has at a time."""
GIVEN_UP = (b"is not healthy", b"obtain the health mutex")
"""In Triton's INTERNAL errors: a model's process did not run for a second, so Triton waits for it no more. What that
process still answers may then be taken for the answer to another request."""
FAULTS = (b"%d" % Code.INTERNAL, b"%d" % Code.UNKNOWN)
BACKOFF_S = 0.02
MAX_BACKOFF_S = 1.0


class Owner(Protocol):
    """Who waits for an answer of Triton."""

    def answered(self, exchange: Exchange) -> None:
        """The exchange has a status, and a body if that is OK, or else the refusal that the guard has to give."""


class Lane:
    """The inference requests of one public model; those of another wait in another lane."""

    def __init__(self, limits: ModelLimits, model: str = "") -> None:
        self.limits = limits
        self.queue = Queue(limits.max_requests, model and f"'{model}'")
        """Those under way."""
        self.waiting: dict[bool, OrderedDict[Exchange, None]] = {True: OrderedDict(), False: OrderedDict()}
        """Those that wait for their turn: what is long, and what is not."""
        self._inferences = self._long = 0

    def has_room(self, *, is_long: bool) -> bool:
        """Whether Triton may have one more."""
        has_room = self._inferences < self.limits.max_upstream_requests
        return has_room and not (is_long and self._long >= self.limits.max_upstream_long)

    def count(self, exchange: Exchange, change: int) -> None:
        """Count one more, or one less, that Triton has."""
        self._inferences += change
        if exchange.is_long:
            self._long += change


class Exchange(Stream):
    """One call of Triton.

    Args:
        path: the method.
        frame: the message with its gRPC prefix.
        owner: who is told.
        extra: header fields of the caller to pass on.
    """

    __slots__ = (
        "abandoned",
        "begun",
        "extra",
        "fault",
        "held",
        "inquiry",
        "is_long",
        "lane",
        "message",
        "model",
        "owner",
        "path",
        "refusal",
        "request_id",
        "status",
    )

    def __init__(self, path: bytes, frame: bytes, owner: Owner, extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__()
        self.path = path
        self.out = frame
        self.finished = True
        self.owner = owner
        self.extra = extra
        self.status = b""
        self.message = b""
        """The answer's `grpc-status` and `grpc-message`, as they came."""
        self.refusal: Refusal | None = None
        """Why Triton did not answer."""
        self.is_long = False
        """Whether Triton may have only so many such at a time."""
        self.lane: Lane | None = None
        """Of an inference request that was admitted, which ends with this: where it waits for its turn."""
        self.held = 0
        """Bytes admitted for it."""
        self.inquiry = ""
        """A model that is not public and of which this asks whether it exists."""
        self.request_id = ""
        """The id that the caller gave the request: Triton's errors do not repeat it."""
        self.begun = 0.0
        """When it was taken on, by the monotonic clock."""
        self.model = ""
        """The model that it names."""
        self.fault = b""
        """Triton's own words for what it failed on, which are not for callers."""
        self.abandoned = False

    def error(self) -> tuple[int, str]:
        """Code and sentence of Triton's error, in its own words."""
        code = int(self.status) if self.status.isdigit() else int(Code.UNKNOWN)
        return code, percent_decoded(self.fault or self.message)


class Upstream:
    """All connections to Triton."""

    def __init__(self, settings: GuardSettings, admission: Admission) -> None:
        self._settings = settings
        self._admission = admission
        self._connected: list[_Connection] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._next = 0
        self._passed = 0
        self.answers = 0
        """How many calls Triton has answered, whatever it said."""
        self.on_given_up: Callable[[bytes], None] = lambda _message: None
        """Told of each answer by which Triton has given up the process of a model."""
        self._lanes = {name: Lane(settings.limits(name), name) for name in settings.public_models}
        self._other = Lane(settings.limits(""))
        """For models that are not public, of which it is only asked whether they exist."""
        self._requests: dict[bytes, Headers] = {}
        self._is_starting_waiting = False
        self._fixed = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":authority", b"localhost" if settings.upstream.startswith(UNIX) else settings.upstream.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )

    @property
    def is_connected(self) -> bool:
        """Whether there is any connection."""
        return bool(self._connected)

    def open(self) -> None:
        """Begin to connect, and to connect again whenever a connection breaks."""
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep()) for _ in range(self._settings.upstream_connections)]

    def close(self) -> None:
        """Let go of all connections."""
        for keeper in self._keepers:
            keeper.cancel()
        for connection in self._connected:
            connection.say_goodbye()

    def send(self, exchange: Exchange) -> None:
        """Call Triton, at once or when it is this exchange's turn; raises Refusal."""
        if (lane := exchange.lane) is not None:
            if not lane.has_room(is_long=exchange.is_long):
                lane.waiting[exchange.is_long][exchange] = None
                return
            lane.count(exchange, 1)
        elif self._passed >= MAX_PASSED:
            raise Refusal(Code.UNAVAILABLE, f"the queue is full: at most {MAX_PASSED} calls wait; try again later")
        else:
            self._passed += 1
        self._start(exchange)

    def lane(self, model: str) -> Lane:
        """Where requests of this model wait for their turn."""
        return self._lanes.get(model, self._other)

    def under_way(self) -> dict[str, int]:
        """Inference requests under way by public model."""
        return {name: lane.queue.requests for name, lane in self._lanes.items()}

    def abandon(self, exchange: Exchange) -> None:
        """Nobody waits for it any more."""
        exchange.abandoned = True
        if exchange.lane is not None and exchange in (waiting := exchange.lane.waiting[exchange.is_long]):
            del waiting[exchange]
            self._release(exchange)

    def refuse_waiting(self, refusal: Refusal) -> None:
        """Refuse what waits for its turn: nobody has begun to work on it."""
        for waiting in [waiting for lane in self._all_lanes() for waiting in lane.waiting.values()]:
            while waiting:
                exchange, _ = waiting.popitem(last=False)
                exchange.refusal = refusal
                self._release(exchange)
                exchange.owner.answered(exchange)

    def lost(self, connection: _Connection) -> None:
        """The connection is gone."""
        if connection in self._connected:
            self._connected.remove(connection)

    def done(self, exchange: Exchange) -> None:
        """Triton has answered, or cannot any more."""
        if exchange.lane is not None:
            exchange.lane.count(exchange, -1)
        else:
            self._passed -= 1
        self._release(exchange)
        if not exchange.abandoned:
            exchange.owner.answered(exchange)
        self._start_waiting()

    def _all_lanes(self) -> Iterator[Lane]:
        yield from self._lanes.values()
        yield self._other

    def _start_waiting(self) -> None:
        if self._is_starting_waiting:
            return
        self._is_starting_waiting = True
        try:
            for lane in self._all_lanes():
                for is_long, waiting in lane.waiting.items():
                    while waiting and lane.has_room(is_long=is_long):
                        exchange, _ = waiting.popitem(last=False)
                        lane.count(exchange, 1)
                        self._start(exchange)
        finally:
            self._is_starting_waiting = False

    def _start(self, exchange: Exchange) -> None:
        while self._connected:
            self._next = (self._next + 1) % len(self._connected)
            connection = self._connected[self._next]
            if connection.submit(exchange, self._headers(exchange)):
                return
            self.lost(connection)
            connection.say_goodbye()
        self.fail(exchange, "the server cannot be reached: send the request again after a while")

    def fail(self, exchange: Exchange, sentence: str) -> None:
        """End an exchange that Triton does not answer."""
        exchange.refusal = Refusal(Code.UNAVAILABLE, sentence, "unreachable")
        self.done(exchange)

    def failed(self, exchange: Exchange) -> None:
        """Triton has failed on a request: why is for who runs it, and would tell a caller of what is inside."""
        message = exchange.message
        if any(words in message for words in GIVEN_UP):
            self.on_given_up(message)
        exchange.fault = message
        exchange.message = b"the server failed on this request: its log tells why"

    def _release(self, exchange: Exchange) -> None:
        if exchange.lane is not None:
            exchange.lane.queue.leave()
            self._admission.leave()
        self._admission.release(exchange.held)

    def _headers(self, exchange: Exchange) -> Headers:
        if exchange.extra:
            return Headers([(b":path", exchange.path), *self._fixed, *exchange.extra])
        headers = self._requests.get(exchange.path)
        if headers is None:
            headers = self._requests[exchange.path] = Headers([(b":path", exchange.path), *self._fixed])
        return headers

    async def _keep(self) -> None:
        pause_s = BACKOFF_S
        while True:
            try:
                connection = await self._connect()
            except OSError as exc:
                _log.debug("no connection to %s: %s", self._settings.upstream, exc)
                await asyncio.sleep(pause_s)
                pause_s = min(MAX_BACKOFF_S, 2 * pause_s)
                continue
            self._connected.append(connection)
            await connection.gone
            _log.warning("the connection to %s broke", self._settings.upstream)
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_BACKOFF_S, 2 * pause_s) if not connection.greeted else BACKOFF_S

    async def _connect(self) -> _Connection:
        loop, address = asyncio.get_running_loop(), self._settings.upstream
        if address.startswith(UNIX):
            _, connection = await loop.create_unix_connection(lambda: _Connection(self), address.removeprefix(UNIX))
        else:
            host, _, port = address.rpartition(":")
            _, connection = await loop.create_connection(lambda: _Connection(self), host.strip("[]"), int(port))
        return connection


class _Connection(Session):
    """One connection to Triton."""

    is_server = False

    def __init__(self, upstream: Upstream) -> None:
        options = nghttp2.new_options(reset_burst=1 << 20, reset_rate=1 << 20)
        super().__init__(
            options,
            {nghttp2.SETTINGS_INITIAL_WINDOW_SIZE: session.STREAM_WINDOW, nghttp2.SETTINGS_ENABLE_PUSH: 0},
        )
        self._upstream = upstream
        self._provider = byref(callbacks.provider())
        self.gone: asyncio.Future[None] = self.loop.create_future()

    def submit(self, exchange: Exchange, headers: Headers) -> bool:
        """Send a call; False if this connection takes no more."""
        if not self.session or self.is_ending or self.transport.is_closing():
            return False
        stream_id = self.lib.submit_request(self.session, None, headers.array, headers.count, self._provider, None)
        if stream_id < 0:
            return False
        exchange.id = stream_id
        self.streams[stream_id] = exchange
        self.flush_soon()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what was under way."""
        self._upstream.lost(self)
        super().connection_lost(exc)
        if not self.gone.done():
            self.gone.set_result(None)

    def headers_began(self, stream_id: int) -> None:
        self.current = self.streams.get(stream_id)

    def header(self, name: bytes, value: bytes) -> int:
        if self.current is not None:
            if name == b"grpc-status":
                self.current.status = value
            elif name == b"grpc-message":
                self.current.message = value
        return 0

    def frame_came(self, head: FrameHead) -> int:  # noqa: ARG002 - a hook
        return 0

    def data_came(self, stream: Exchange, size: int) -> None:  # noqa: ARG002 - a hook
        if stream.abandoned:
            stream.body.clear()
        if stream.unconsumed >= session.WINDOW_STEP:
            self.consume_stream(stream)

    def ended(self, stream: Exchange) -> None:
        if not stream.closed:
            self._upstream.answers += 1
            stream.closed = True  # answered; what follows on this stream is of no interest
            if not stream.status:
                stream.status, stream.message = b"%d" % Code.UNKNOWN, b"the server ended the call without a status"
            elif stream.status in FAULTS and stream.lane is not None:
                self._upstream.failed(stream)
            self._upstream.done(stream)

    def stream_closed(self, stream: Exchange) -> None:
        self._upstream.fail(stream, "the server went away during the call: send the request again")

    def close(self, stream: Exchange) -> None:
        if not stream.closed:
            super().close(stream)
