"""The guard itself: it listens, serves, drains and stops."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Sequence

from rejection_server.guard import nghttp2
from rejection_server.guard.context import Context
from rejection_server.guard.counters import Snapshot
from rejection_server.guard.down import Caller
from rejection_server.guard.listening import listening_socket
from rejection_server.guard.metrics import MetricsServer
from rejection_server.guard.refusal import percent_decoded, stopping
from rejection_server.guard.settings import GuardSettings
from rejection_server.guard.stream import begin_conversation

__all__ = ["Guard"]

_log = logging.getLogger(__name__)

TICK_S = 0.1
TICKS_OF_A_SWEEP = 10
DRAIN_STEP_S = 0.02
LEAVE_S = 0.2
"""How long calls are taken that were on their way when their callers were told to begin no more."""
GOODBYE_S = 1.0
"""How long callers have to take the last of their answers and close the connection."""
BACKLOG = 1024


class Guard:
    """One guard, in the running event loop.

    As an asynchronous context manager it listens inside the block and is gone after it, calls under way answered:

        async with Guard(GuardSettings(upstream="127.0.0.1:8001", public_models=("rejection",))) as guard:
            print(guard.port)
    """

    def __init__(self, settings: GuardSettings, on_event: Callable[[dict[str, object]], None] | None = None) -> None:
        self.settings = settings
        self._context = Context(settings)
        if on_event is not None:
            self._context.health.on_event = on_event
            self._context.reports.on_event = on_event
            self._context.upstream.on_given_up = lambda message: on_event(
                {"event": "unhealthy", "message": percent_decoded(message)}
            )
        self._connections: set[Caller] = set()
        self._listener: asyncio.Server | None = None
        self._new_connection: Callable[[], Caller]
        self._is_renewing = False
        """Whether the listener still has what `access.tls` was before."""
        self._metrics: MetricsServer | None = None
        self._ticker: asyncio.Task[None] | None = None
        self.others: Callable[[], Awaitable[Sequence[Snapshot]]] | None = None
        """Asks the other guards of the port, if there are any, what they have done."""
        self.port = 0
        """Where it listens."""
        self.metrics_port: int | None = None
        """Where its metrics are, None if nowhere."""

    async def __aenter__(self) -> Guard:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Drain and stop."""
        await self.stop()

    async def start(self) -> None:
        """Listen, and begin to connect to Triton. Raises OSError if the address cannot be had."""
        loop = asyncio.get_running_loop()
        settings, context = self.settings, self._context
        context.now = loop.time()
        options = nghttp2.new_options(reset_burst=settings.reset_burst, reset_rate=settings.reset_rate)
        context.upstream.open()

        def connection() -> Caller:
            return Caller(context, options, lambda call: begin_conversation(call, context), self._connections)

        self._new_connection = connection
        if settings.listen_fd is not None:
            listening = socket.socket(fileno=settings.listen_fd)
        else:
            listening = await listening_socket(settings.host, settings.port, reuse_port=settings.reuse_port)
        await self._listen(listening)
        self.port = int(listening.getsockname()[1])
        if settings.metrics_port is not None:
            self._metrics = MetricsServer(settings, self.total)
            self.metrics_port = await self._metrics.start()
        self._ticker = loop.create_task(self._tick())

    async def _listen(self, listening: socket.socket) -> None:
        """Take connections from this socket; raises OSError."""
        tls = self._context.access.tls
        self._listener = await asyncio.get_running_loop().create_server(
            self._new_connection,
            sock=listening,
            backlog=BACKLOG,
            ssl=tls.context if tls else None,
            ssl_handshake_timeout=self.settings.handshake_timeout_s if tls else None,
        )

    async def _renew(self) -> None:
        """Look at the files of tokens, keys and certificates; new connections get what they say now.

        The socket stays the same: whoever waits in its queue is taken by the listener that follows. Connections
        that are there go on with what they began with.
        """
        before = self._listener
        self._is_renewing |= self._context.access.refresh()
        if not self._is_renewing or before is None:
            return
        (listening,) = before.sockets
        try:
            await self._listen(listening.dup())
        except OSError as exc:  # no descriptor is left, for example
            _log.warning("new connections do not get the new certificate: %s", exc)
            return
        self._is_renewing = False
        # A connection that was taken a moment ago needs its listener for one turn more.
        asyncio.get_running_loop().remove_reader(listening.fileno())
        await asyncio.sleep(TICK_S)
        before.close()

    async def drain(self) -> None:
        """Refuse new calls and those that wait for Triton, answer those that it has, and say goodbye to all callers.

        Whoever has several servers is to leave this one: nobody listens any more, and callers are told to begin no
        further calls here (GOAWAY). Refusals would be faster than any answer, and draw the calls of all to themselves.
        After `drain_timeout_s` what has no answer is refused, too. What nobody waits for any more is not waited for.
        """
        context, loop = self._context, asyncio.get_running_loop()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            connection.announce_goodbye()
        if self._connections:
            await asyncio.sleep(LEAVE_S)
        context.is_stopping = True
        for connection in list(self._connections):
            connection.stop()
        context.upstream.refuse_waiting(stopping())
        until = loop.time() + self.settings.drain_timeout_s
        while loop.time() < until and any(connection.is_busy() for connection in self._connections):
            await asyncio.sleep(DRAIN_STEP_S)
        for connection in list(self._connections):
            connection.refuse_all()
            connection.say_goodbye()
        until = loop.time() + GOODBYE_S
        while loop.time() < until and self._connections:
            await asyncio.sleep(DRAIN_STEP_S)

    async def stop(self) -> None:
        """Drain, and close everything."""
        await self.drain()
        self._context.reports.look(math.inf)
        for connection in list(self._connections):
            connection.transport.abort()
        self._context.upstream.close()
        self._context.inferences.close()
        if self._metrics is not None:
            self._metrics.close()
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker

    def snapshot(self) -> Snapshot:
        """What it has done so far."""
        counters, admission = self._context.counters, self._context.admission
        return Snapshot(
            calls=counters.calls(),
            models=dict(counters.models),
            refused=counters.refused.total(),
            refused_by=dict(counters.refused),
            cancelled=counters.cancelled,
            received_bytes=counters.received_bytes,
            sent_bytes=counters.sent_bytes,
            certificate_expires=None if self._context.access.tls is None else self._context.access.tls.expires,
            connections=len(self._connections),
            under_way=admission.requests,
            under_way_by=self._context.upstream.under_way(),
            under_way_bytes=admission.bytes,
            labels=counters.by_label(),
            durations={name: list(found.counts) for name, found in counters.durations.items()},
            durations_sum_s={name: found.sum_s for name, found in counters.durations.items()},
        )

    async def total(self) -> Snapshot:
        """What it and the others have done so far."""
        return self.snapshot() if self.others is None else self.snapshot().with_others(await self.others())

    async def _tick(self) -> None:
        context, loop = self._context, asyncio.get_running_loop()
        renew_at = loop.time() + self.settings.reread_s
        for number in itertools.count():
            context.now = now = loop.time()
            if context.streams:
                for connection in list(self._connections):
                    connection.expire(now)
            if number % TICKS_OF_A_SWEEP == 0:
                for connection in list(self._connections):
                    connection.sweep()
                context.health.look(now)
                context.reports.look(now)
            if now >= renew_at and not context.is_stopping:
                renew_at = now + self.settings.reread_s
                await self._renew()
            await asyncio.sleep(TICK_S)
