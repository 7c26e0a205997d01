"""The calls that carry several messages: ModelStreamInfer and the health service's Watch.

Each message of a ModelStreamInfer is a request of its own to Triton. Answers go back in the order of the requests. A
caller who does not read, or who has enough requests under way, is not read either: HTTP/2's window of the call stays
shut until there is room.
"""

from __future__ import annotations

from collections import deque

from tritonclient.grpc import service_pb2

from rejection_server.guard import contract, framing
from rejection_server.guard.call import Call, Conversation
from rejection_server.guard.context import Context
from rejection_server.guard.framing import Message
from rejection_server.guard.health import NOT_SERVING
from rejection_server.guard.methods import Kind
from rejection_server.guard.refusal import Code, Refusal, percent_decoded, percent_encoded, stopping
from rejection_server.guard.up import Exchange

__all__ = ["begin_conversation"]

MAX_UNREAD_BYTES = 1 << 18
"""Bytes of answers that the caller has not taken; no further request is read before."""
MAX_QUESTION_BYTES = 4096
"""Longest message of a Watch."""
_ERROR_AS_STATUS = (b"triton_grpc_error", b"true")


def begin_conversation(call: Call, context: Context) -> Conversation:
    """What a call with several messages does."""
    return _Inferences(call, context) if call.method.kind is Kind.STREAM else _Watch(call, context)


class _Open(Conversation):
    """Answers bit by bit."""

    def __init__(self, call: Call, context: Context) -> None:
        self.call = call
        self.context = context
        self._unread = 0

    def say(self, data: bytes) -> None:
        """Send more."""
        call = self.call
        if call.is_gone:
            return
        self.begin()
        if not call.out:
            call.since = self.context.now
        call.out, call.sent = bytes(call.out[call.sent :]) + data, 0
        self.count_unread()
        call.connection.lib.session_resume_data(call.connection.session, call.id)
        call.connection.flush_soon()

    def count_unread(self) -> None:
        """What the caller has not taken counts as bytes under way."""
        unread = len(self.call.out) - self.call.sent
        self.context.admission.bytes += unread - self._unread
        self.call.held += unread - self._unread
        self._unread = unread

    def taken(self) -> None:
        if not self.call.replied:
            self.count_unread()
            self.call.since = self.context.now

    def begin(self) -> None:
        """Send the headers, once."""
        if not self.call.has_begun:
            self.call.connection.begin_reply(self.call)

    def end(self, refusal: Refusal | None = None) -> None:
        """Send the status."""
        if self.call.is_gone:
            return
        if refusal is not None:
            self.call.connection.give_up(self.call, refusal)
        else:
            self.begin()
            self.call.connection.end(self.call, b"0")


class _Slot:
    """The place of one request's answer."""

    __slots__ = ("answer", "code", "error", "exchange", "model", "request_id", "stream")

    def __init__(self, stream: _Inferences) -> None:
        self.stream = stream
        self.exchange: Exchange | None = None
        self.answer: bytes | None = None
        """The message of the answer without its prefix."""
        self.error: str | None = None
        self.model = self.request_id = ""
        self.code = 0

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for it."""
        return self.stream.call.is_gone

    def answered(self, exchange: Exchange) -> None:
        """Triton's answer, or what stands for it."""
        self.exchange = None
        self.request_id = exchange.request_id
        self.model = exchange.model
        if exchange.refusal is not None:
            self.refused(exchange.refusal)
        elif exchange.status != b"0":
            self.code, told = exchange.error()
            self.error = percent_decoded(exchange.message)
            self.stream.context.reports.failed(self.stream.call, self.code, told, self)
            self.stream.deliver()
        elif exchange.inquiry:
            self.refused(contract.part_of(exchange.inquiry, self.stream.context.settings.public_models))
        else:
            self.stream.context.inferences.answered(exchange)
            self.answer = bytes(exchange.body[framing.PREFIX_BYTES :])
            self.stream.deliver()

    def refused(self, refusal: Refusal) -> None:
        """The guard's own error."""
        self.stream.context.counters.refused[refusal.reason] += 1
        self.code, self.error = int(refusal.code), refusal.sentence
        self.request_id = self.request_id or refusal.request_id
        self.model = self.model or refusal.model
        self.stream.context.reports.failed(self.stream.call, self.code, refusal.sentence, self)
        self.stream.deliver()


class _Inferences(_Open):
    """ModelStreamInfer."""

    def __init__(self, call: Call, context: Context) -> None:
        super().__init__(call, context)
        self._slots: deque[_Slot] = deque()
        self._is_reading = False
        self._peer_ended = False

    def came(self) -> None:
        if len(self.call.body) == self.call.unconsumed:
            self.call.since = self.context.now
        self._read()

    def peer_ended(self) -> None:
        self._peer_ended = True
        self._read()

    def taken(self) -> None:
        super().taken()
        # From within the library's own sending: reading on may submit, but not send.
        self._read()

    def closed(self) -> None:
        for slot in self._slots:
            if slot.exchange is not None:
                self.context.upstream.abandon(slot.exchange)
        self._slots.clear()

    def is_late(self) -> bool:
        return not self._slots and bool(self.call.body or self.call.out)

    def stop(self) -> None:
        self._end_if_done()

    def deliver(self) -> None:
        """Send the answers whose turn it is."""
        ready: list[bytes] = []
        while self._slots and (self._slots[0].answer is not None or self._slots[0].error is not None):
            slot = self._slots.popleft()
            if slot.error is not None and _ERROR_AS_STATUS in self.call.extra:
                self.say(b"".join(ready))
                if not self.call.is_gone:
                    self.begin()
                    self.call.connection.end(self.call, b"%d" % slot.code, percent_encoded(slot.error))
                self.closed()
                return
            ready.append(_stream_response(slot))
        if ready:
            self.say(b"".join(ready))
        self._read()

    def _has_room(self) -> bool:
        unread = len(self.call.out) - self.call.sent
        return len(self._slots) < self.context.settings.max_stream_messages and unread < MAX_UNREAD_BYTES

    def _read(self) -> None:
        """Take messages as long as there is room for their answers."""
        call = self.call
        if self._is_reading or call.is_gone:
            return
        self._is_reading = True
        try:
            self.begin()
            while self._has_room() and not call.replied:
                before = len(call.body)
                message = framing.next_message(call.body, self.context.settings.max_message_bytes)
                if message is None:
                    if call.unconsumed:
                        call.connection.consume_stream(call)
                    break
                self._request(message, before - len(call.body))
        except Refusal as refusal:
            self.end(refusal)
        finally:
            self._is_reading = False
        if not call.replied:
            self._end_if_done()

    def _request(self, message: Message, size: int) -> None:
        """One message: an answer, sooner or later, in its place; raises Refusal if the caller's token has gone."""
        context, call = self.context, self.call
        context.access.check(call.method, call.token, call.admin_key)
        slot = _Slot(self)
        self._slots.append(slot)
        call.held -= size
        if context.is_stopping:
            context.admission.release(size)
            slot.refused(stopping())
        else:
            context.inferences.begin(message, call.encoding, slot, size, call.extra)

    def _end_if_done(self) -> None:
        if self._slots:
            return
        if self._peer_ended and not self.call.body:
            self.end()
        elif self._peer_ended and self._has_room():
            self.end(Refusal(Code.INVALID_ARGUMENT, "the stream ended within a message"))
        elif self.context.is_stopping:
            self.end(stopping())


class _Watch(_Open):
    """grpc.health.v1.Health/Watch."""

    def __init__(self, call: Call, context: Context) -> None:
        super().__init__(call, context)
        self._is_watching = False
        self._told = b""

    def came(self) -> None:
        if len(self.call.body) > MAX_QUESTION_BYTES:
            raise framing.too_large(MAX_QUESTION_BYTES)
        if not self._is_watching and framing.next_message(self.call.body, MAX_QUESTION_BYTES) is not None:
            self._is_watching = True
            self.context.health.watch(self)

    def peer_ended(self) -> None:
        if not self._is_watching:
            raise Refusal(Code.INVALID_ARGUMENT, "the call ended without its message")

    def tell(self, status: bytes) -> None:
        """Send a status that is new."""
        if status != self._told:
            self._told = status
            self.say(framing.framed(status))

    def closed(self) -> None:
        self.context.health.forget(self)

    def is_late(self) -> bool:
        return bool(self.call.out) or not self._is_watching

    def stop(self) -> None:
        self.tell(NOT_SERVING)
        self.end(stopping())


def _stream_response(slot: _Slot) -> bytes:
    """A framed ModelStreamInferResponse."""
    if slot.error is not None:
        response = service_pb2.ModelStreamInferResponse(error_message=slot.error)
        response.infer_response.id = slot.request_id
        return framing.framed(response.SerializeToString())
    answer = slot.answer or b""
    size = len(answer)
    prefix = bytearray(b"\x12")  # field 2, infer_response, whose bytes are those of Triton's answer
    while size > 127:
        prefix.append(size & 127 | 128)
        size >>= 7
    prefix.append(size)
    return framing.framed(bytes(prefix) + answer)
