"""An inference request on its way to Triton: admitted, inflated, checked, sent."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Protocol

from rejection_server.guard import contract, framing
from rejection_server.guard.admission import Admission
from rejection_server.guard.answers import count_labels
from rejection_server.guard.counters import Counters
from rejection_server.guard.framing import Message
from rejection_server.guard.methods import METADATA_PATH, MODEL_INFER_PATH
from rejection_server.guard.refusal import Refusal
from rejection_server.guard.settings import GuardSettings
from rejection_server.guard.up import Exchange, Owner, Upstream

__all__ = ["Asker", "Inferences"]

INLINE_BYTES = 1 << 16
"""What is inflated at once; larger messages wait for the one thread that inflates, one after the other."""


class Asker(Owner, Protocol):
    """Who sent the request and waits for its answer."""

    exchange: Exchange | None

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits any more."""

    def refused(self, refusal: Refusal) -> None:
        """The request does not go to Triton."""


class Inferences:
    """Sends requests on to Triton."""

    def __init__(self, settings: GuardSettings, admission: Admission, upstream: Upstream, counters: Counters) -> None:
        self._settings = settings
        self._admission = admission
        self._upstream = upstream
        self._counters = counters
        self._inflating = ThreadPoolExecutor(1, "inflate")

    def begin(
        self,
        message: Message,
        encoding: str,
        asker: Asker,
        held: int,
        extra: tuple[tuple[bytes, bytes], ...],
    ) -> None:
        """Admit a request and send it on, or refuse it.

        Args:
            message: as it came.
            encoding: how it is compressed, if it is.
            asker: is told of the answer or the refusal, sooner or later.
            held: bytes that are held for it and are released with it.
            extra: header fields of the caller to pass on.
        """
        try:
            self._admission.enter()
        except Refusal as refusal:
            self._admission.release(held)
            asker.refused(refusal)
            return
        if not message.is_compressed:
            self._send(message.content, asker, held, extra)
            return
        limit = self._settings.max_message_bytes
        try:
            plain = framing.inflated(message.content, encoding, min(limit, INLINE_BYTES))
        except Refusal as refusal:
            if refusal.reason != "too_large" or limit <= INLINE_BYTES:
                self._give_up(asker, held, refusal)
                return
        else:
            self._send(plain, asker, held, extra)
            return

        def done(inflated: asyncio.Future[bytes]) -> None:
            error = inflated.exception()
            if error is None:
                self._send(inflated.result(), asker, held, extra)
            elif isinstance(error, Refusal):
                self._give_up(asker, held, error)
            else:
                raise error

        asyncio.get_running_loop().run_in_executor(
            self._inflating, framing.inflated, message.content, encoding, limit
        ).add_done_callback(done)

    def answered(self, exchange: Exchange) -> None:
        """Count an answer that goes to its caller."""
        self._counters.durations[exchange.model].add(monotonic() - exchange.begun)
        count_labels(exchange.body, exchange.model, self._settings.labels, self._counters.labels)

    def close(self) -> None:
        """Inflate nothing more."""
        self._inflating.shutdown(wait=False, cancel_futures=True)

    def _send(
        self, message: bytes | memoryview, asker: Asker, held: int, extra: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        settings, admission = self._settings, self._admission
        grown = max(0, len(message) - held)
        held += grown
        try:
            if grown:
                admission.hold(grown)
            request, pieces, is_long = contract.checked(message, settings.max_elements, self._read_bytes)
        except Refusal as refusal:
            self._give_up(asker, held, refusal)
            return
        if asker.is_gone:
            self._give_up(asker, held, None)
            return
        name = request.model_name
        lane = self._upstream.lane(name)
        try:
            lane.queue.enter()
        except Refusal as refusal:
            refusal.request_id, refusal.model = request.id, name
            self._give_up(asker, held, refusal)
            return
        if name in settings.public_models:
            self._counters.models[name] += 1
            exchange = Exchange(MODEL_INFER_PATH, framing.prefix(sum(map(len, pieces))) + pieces[0], asker, extra)
            exchange.rest = pieces[1:]
            exchange.is_long = is_long
        else:
            exchange = Exchange(METADATA_PATH, framing.framed(contract.metadata_request(request)), asker, extra)
            exchange.inquiry = name
        exchange.lane = lane
        exchange.begun = monotonic()
        exchange.request_id, exchange.model = request.id, name
        exchange.held = held
        asker.exchange = exchange
        self._upstream.send(exchange)

    def _read_bytes(self, model: str) -> int:
        return self._upstream.lane(model).limits.read_bytes

    def _give_up(self, asker: Asker, held: int, refusal: Refusal | None) -> None:
        self._admission.leave()
        self._admission.release(held)
        if refusal is not None and not asker.is_gone:
            asker.refused(refusal)
