"""The calls that carry several messages: ModelStreamInfer and the health service's Watch.

Each message of a ModelStreamInfer is a request of its own to Triton. Answers go back in the order of the requests. A
caller who does not read, or who has enough requests under way, is not read either: HTTP/2's window of the call stays
shut until there is room.
"""

from __future__ import annotations

from collections import deque

from tritonclient.grpc import service_pb2

from rejection_server.guard import contract, framing
from rejection_server.guard.context import Context
from rejection_server.guard.down import OK_TRAILER, Call, Conversation, exchange_for
from rejection_server.guard.methods import SERVER_READY_PATH, Kind
from rejection_server.guard.nghttp2 import Headers
from rejection_server.guard.refusal import Code, Refusal, percent_decoded, percent_encoded
from rejection_server.guard.up import Exchange

__all__ = ["Health", "begin_conversation"]

MAX_UNREAD_BYTES = 1 << 18
"""Bytes of answers that the caller has not taken; no further request is read before."""
_ERROR_AS_STATUS = (b"triton_grpc_error", b"true")
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
_READY = framing.framed(b"\x08\x01")


def begin_conversation(call: Call, context: Context, health: Health) -> Conversation:
    """What a call with several messages does."""
    return _Inferences(call, context) if call.method.kind is Kind.STREAM else _Watch(call, context, health)


class _Open(Conversation):
    """Answers bit by bit."""

    def __init__(self, call: Call, context: Context) -> None:
        self.call = call
        self.context = context
        self._has_begun = False

    def say(self, data: bytes) -> None:
        """Send more."""
        call = self.call
        if call.closed or call.replied:
            return
        self.begin()
        if not call.out:
            call.since = self.context.now
        call.out, call.sent = call.out[call.sent :] + data, 0
        call.connection.lib.session_resume_data(call.connection.session, call.id)
        call.connection.flush_soon()

    def begin(self) -> None:
        """Send the headers, once."""
        if not self._has_begun:
            self._has_begun = True
            self.call.connection.begin_reply(self.call)

    def end(self, refusal: Refusal | None = None) -> None:
        """Send the status."""
        call = self.call
        if call.closed or call.replied:
            return
        self.begin()
        if refusal is None:
            call.connection.finish(call, OK_TRAILER, Code.OK)
        else:
            call.connection.refuse(call, refusal)


class _Slot:
    """The place of one request's answer."""

    __slots__ = ("answer", "code", "error", "exchange", "stream")

    def __init__(self, stream: _Inferences) -> None:
        self.stream = stream
        self.exchange: Exchange | None = None
        self.answer: bytes | None = None
        """The message of the answer without its prefix."""
        self.error: str | None = None
        self.code = 0

    def answered(self, exchange: Exchange) -> None:
        if exchange.status != b"0":
            self.code = int(exchange.status) if exchange.status.isdigit() else int(Code.UNKNOWN)
            self.error = percent_decoded(exchange.message)
        elif exchange.inquiry:
            self.refuse(contract.part_of(exchange.inquiry, self.stream.context.settings.public_models))
        else:
            self.answer = bytes(exchange.body[framing.PREFIX_BYTES :])
        self.exchange = None
        self.stream.deliver()

    def refuse(self, refusal: Refusal) -> None:
        """The guard's own error."""
        self.stream.context.counters.refused += 1
        self.code, self.error = int(refusal.code), refusal.sentence


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
        self.call.since = self.context.now
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
                self._fail(Headers([(b"grpc-status", b"%d" % slot.code), _message(slot.error)]), slot.code)
                return
            ready.append(_stream_response(slot))
        if ready:
            self.say(b"".join(ready))
        self._read()

    def _fail(self, trailer: Headers, code: int) -> None:
        if not (self.call.closed or self.call.replied):
            self.begin()
            self.call.connection.finish(self.call, trailer, code)
        self.closed()

    def _has_room(self) -> bool:
        unread = len(self.call.out) - self.call.sent
        return len(self._slots) < self.context.settings.max_stream_messages and unread < MAX_UNREAD_BYTES

    def _read(self) -> None:
        """Take messages as long as there is room for their answers."""
        call = self.call
        if self._is_reading or call.closed or call.replied:
            return
        self._is_reading = True
        try:
            self.begin()
            while self._has_room():
                found = framing.next_message(call.body, call.encoding, self.context.settings.max_message_bytes)
                if found is None:
                    if call.unconsumed:
                        call.connection.consume_stream(call)
                    break
                message, size = found
                del call.body[:size]
                self._request(message, size)
                if call.replied:
                    return
        except Refusal as refusal:
            self.end(refusal)
            self.closed()
            return
        finally:
            self._is_reading = False
        self._end_if_done()

    def _request(self, message: bytes, size: int) -> None:
        """One message: an answer, sooner or later, in its place."""
        context, call = self.context, self.call
        slot = _Slot(self)
        self._slots.append(slot)
        call.held -= size
        admitted = False
        try:
            context.admission.enter()
            admitted = True
            exchange = exchange_for(context, message, call, slot, size)
        except Refusal as refusal:
            if admitted:
                context.admission.leave()
            context.admission.release(size)
            slot.refuse(refusal)
            self.deliver()
            return
        slot.exchange = exchange
        context.upstream.send(exchange)

    def _end_if_done(self) -> None:
        if self._slots or self.call.replied:
            return
        if self._peer_ended and not self.call.body:
            self.end()
        elif self._peer_ended and self._has_room():
            self.end(Refusal(Code.INVALID_ARGUMENT, "the stream ended within a message"))
        elif self.context.stopping:
            self.end(Refusal(Code.UNAVAILABLE, "the server is stopping"))


class _Watch(_Open):
    """grpc.health.v1.Health/Watch."""

    def __init__(self, call: Call, context: Context, health: Health) -> None:
        super().__init__(call, context)
        self._health = health
        self._told: bytes | None = None

    def came(self) -> None:
        if self._told is None and framing.next_message(self.call.body, self.call.encoding, 4096) is not None:
            self._health.watch(self)
        if len(self.call.body) > 4096:
            raise framing.too_large(4096)

    def peer_ended(self) -> None:
        if not self.call.body:
            raise Refusal(Code.INVALID_ARGUMENT, "the call ended without its message")

    def tell(self, status: bytes) -> None:
        """Send a status that is new."""
        if status != self._told:
            self._told = status
            self.say(framing.framed(status))

    def closed(self) -> None:
        self._health.forget(self)

    def is_late(self) -> bool:
        return bool(self.call.out) or self._told is None

    def stop(self) -> None:
        self.tell(_NOT_SERVING)
        self.end(Refusal(Code.UNAVAILABLE, "the server is stopping"))


class Health:
    """Asks Triton whether it is ready while anybody watches."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._watchers: set[_Watch] = set()
        self._is_asking = False

    def watch(self, watcher: _Watch) -> None:
        """One more watcher, who is told at once."""
        self._watchers.add(watcher)
        if self._context.stopping:
            watcher.stop()
        else:
            self.ask()

    def forget(self, watcher: _Watch) -> None:
        """One watcher less."""
        self._watchers.discard(watcher)

    def ask(self) -> None:
        """Once a second, and for a new watcher."""
        if self._watchers and not self._is_asking and not self._context.stopping:
            self._is_asking = True
            try:
                self._context.upstream.send(Exchange(SERVER_READY_PATH, framing.framed(b""), self))
            except Refusal:
                self._is_asking = False

    def answered(self, exchange: Exchange) -> None:
        """Triton's answer, for all watchers."""
        self._is_asking = False
        is_ready = exchange.status == b"0" and bytes(exchange.body) == _READY and not self._context.stopping
        for watcher in list(self._watchers):
            watcher.tell(_SERVING if is_ready else _NOT_SERVING)


def _message(sentence: str) -> tuple[bytes, bytes]:
    return b"grpc-message", percent_encoded(sentence)


def _stream_response(slot: _Slot) -> bytes:
    """A framed ModelStreamInferResponse."""
    if slot.error is not None:
        return framing.framed(service_pb2.ModelStreamInferResponse(error_message=slot.error).SerializeToString())
    answer = slot.answer or b""
    size = len(answer)
    prefix = bytearray(b"\x12")  # field 2, infer_response, whose bytes are those of Triton's answer
    while size > 127:
        prefix.append(size & 127 | 128)
        size >>= 7
    prefix.append(size)
    return framing.framed(bytes(prefix) + answer)
