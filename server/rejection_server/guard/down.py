"""A caller's connection: its calls, what is refused, what goes on to Triton, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import byref, c_void_p

from rejection_server.guard import callbacks, contract, framing, nghttp2, session
from rejection_server.guard.call import READ_BY_HEADER, Call, Conversation
from rejection_server.guard.context import Context
from rejection_server.guard.methods import Kind
from rejection_server.guard.nghttp2 import FrameHead, Headers
from rejection_server.guard.peers import peer_of
from rejection_server.guard.refusal import Code, Refusal, percent_encoded, stopping
from rejection_server.guard.session import Session
from rejection_server.guard.settings import ADMIN_KEY
from rejection_server.guard.up import Exchange

__all__ = ["Caller"]

MAX_PASSED_BYTES = 4096
"""Longest message of a method other than inference: Triton repeats the name in it in a header."""
FRAME_BURST, FRAME_RATE, FRAMES_OF_A_CALL, BYTES_OF_A_FRAME = 5000, 1000, 16, 32
"""How many frames a connection may send at once, how many more each second, for each call, and for how many bytes of
data: who sends more keeps the guard busy with nothing."""
_BEGIN = (
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", framing.ACCEPTED_ENCODINGS.encode()),
)
_OK_HEADERS = Headers(_BEGIN)
_OK_TRAILER = Headers([(b"grpc-status", b"0")])
_NO_HTTP2 = b"this port speaks gRPC, which is HTTP/2: call it with a gRPC client\n"
_HTTP1_ANSWER = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_NO_HTTP2), _NO_HTTP2)
)


class Caller(Session):
    """One connection of a caller.

    Args:
        context: the guard.
        options: of libnghttp2.
        begin_conversation: makes the conversation of a call with several messages.
        connections: all that are open; this one adds and removes itself.
    """

    write_ahead_bytes = 1 << 16

    def __init__(
        self,
        context: Context,
        options: c_void_p,
        begin_conversation: Callable[[Call], Conversation],
        connections: set[Caller],
    ) -> None:
        settings = context.settings
        super().__init__(
            options,
            {
                nghttp2.SETTINGS_MAX_CONCURRENT_STREAMS: settings.max_streams,
                nghttp2.SETTINGS_INITIAL_WINDOW_SIZE: session.STREAM_WINDOW,
                nghttp2.SETTINGS_MAX_HEADER_LIST_SIZE: settings.max_header_bytes,
            },
        )
        self.context = context
        self._begin_conversation = begin_conversation
        self._connections = connections
        self.peer = ""
        """Its address, IPv6 by its first 64 bits."""
        self._provider = byref(callbacks.provider())
        self._since = self._progress_since = context.now
        self._sent_bytes = self._taken_bytes = 0
        self._frames_left = FRAME_BURST

    # --- connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: object) -> None:
        """Begin, if there is room and the caller speaks HTTP/2."""
        settings, peers = self.context.settings, self.context.peers
        tls = transport.get_extra_info("ssl_object")  # type: ignore[attr-defined]
        peer = peer_of(transport.get_extra_info("peername"))  # type: ignore[attr-defined]
        if len(self._connections) >= settings.max_connections or peers[peer] >= settings.max_connections_per_peer:
            self.context.counters.refused["connections"] += 1
            transport.abort()  # type: ignore[attr-defined]
        elif tls is not None and tls.selected_alpn_protocol() != "h2":
            transport.abort()  # type: ignore[attr-defined]
        else:
            self._connections.add(self)
            self.peer = peer
            peers[peer] += 1
            super().connection_made(transport)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller is gone; what Triton has of it runs to its end."""
        if self in self._connections:
            self._connections.remove(self)
            peers = self.context.peers
            peers[self.peer] -= 1
            if not peers[self.peer]:
                del peers[self.peer]
        super().connection_lost(exc)

    def buffer_updated(self, nbytes: int) -> None:
        """Count, then read."""
        self.context.counters.received_bytes += nbytes
        super().buffer_updated(nbytes)

    def spoke_otherwise(self) -> None:
        self.transport.write(_HTTP1_ANSWER)

    def sent(self, size: int) -> None:
        self._sent_bytes += size
        self.context.counters.sent_bytes += size

    def stop(self) -> None:
        """Calls under way go on to their end, conversations are brought to it."""
        for call in list(self.streams.values()):
            if call.conversation is not None:
                call.conversation.stop()

    def refuse_all(self) -> None:
        """Answer the calls for which there was no time."""
        for call in list(self.streams.values()):
            if not call.replied:
                self.give_up(call, stopping())

    def is_busy(self) -> bool:
        """Whether a call that began before the guard was told to stop is not answered to its end."""
        return bool(self.transport.get_write_buffer_size()) or any(
            not call.is_new and not call.is_sent for call in self.streams.values()
        )

    def expire(self, now: float) -> None:
        """Ten times a second: answer the calls whose deadline is over."""
        for call in list(self.streams.values()):
            if now >= call.deadline and not call.replied:
                self.give_up(call, Refusal(Code.DEADLINE_EXCEEDED, "the call's deadline is over: allow it more time"))

    def sweep(self) -> None:
        """Once a second: end what takes too long."""
        now, settings = self.context.now, self.context.settings
        self._frames_left = min(FRAME_BURST, self._frames_left + FRAME_RATE)
        unsent = self.transport.get_write_buffer_size()
        if not unsent or self._sent_bytes - unsent != self._taken_bytes:
            self._taken_bytes, self._progress_since = self._sent_bytes - unsent, now
        is_stuck = now - self._progress_since > settings.write_timeout_s
        if is_stuck or (not self.greeted and now - self._since > settings.handshake_timeout_s):
            self.transport.abort()
        elif self.streams:
            self._since = now
            for call in list(self.streams.values()):
                self._sweep_call(call, now)
        elif self.greeted and now - self._since > settings.idle_timeout_s:
            self.say_goodbye()

    def _sweep_call(self, call: Call, now: float) -> None:
        settings = self.context.settings
        if call.replied:
            if now - call.since > settings.write_timeout_s:
                self.reset(call, nghttp2.CANCEL)
                self.flush_soon()
        elif now - call.since > settings.receive_timeout_s:
            is_late = not call.is_complete if call.conversation is None else call.conversation.is_late()
            if is_late:
                seconds = settings.receive_timeout_s
                self.give_up(call, Refusal(Code.DEADLINE_EXCEEDED, f"the request did not arrive within {seconds:g} s"))

    # --- calls ---------------------------------------------------------------------------------------------------

    def headers_began(self, stream_id: int) -> None:
        if stream_id in self.streams:  # trailers: of no interest
            self.current = None
            return
        self.current = self.streams[stream_id] = Call(stream_id, self)
        self.context.streams += 1
        self._frames_left += FRAMES_OF_A_CALL

    def header(self, name: bytes, value: bytes) -> int:
        call = self.current
        if call is None:
            return 0
        call.header_bytes += len(name) + len(value) + 32
        most = self.context.settings.max_header_bytes
        if call.header_bytes > most:
            # A few bytes can stand for many: what is far too much is not even counted to its end.
            return 0 if call.header_bytes <= 4 * most else nghttp2.ERR_TEMPORAL_CALLBACK_FAILURE
        read = READ_BY_HEADER.get(name)
        if read is not None:
            read(call, name, value)
        return 0

    def frame_came(self, head: FrameHead) -> int:
        call = self.current
        if call is not None and head.type == nghttp2.HEADERS:
            self.current = None
            try:
                self._begin(call)
            except Refusal as refusal:
                self.give_up(call, refusal)
        self._frames_left -= 1
        if self._frames_left >= 0:
            return 0
        self.context.counters.refused["flood"] += 1
        return nghttp2.ERR_CALLBACK_FAILURE

    def data_came(self, call: Call, size: int) -> None:
        self._frames_left += size // BYTES_OF_A_FRAME
        if call.replied:
            call.body.clear()
            return
        try:
            self._arrived(call, size)
        except Refusal as refusal:
            self.give_up(call, refusal)

    def _arrived(self, call: Call, size: int) -> None:
        """More of a call: let it go on, or raise Refusal."""
        call.held += size
        self.context.admission.hold(size)
        if call.conversation is not None:
            call.conversation.came()
            return
        limit = self._limit(call)
        if len(call.body) > limit + framing.PREFIX_BYTES:
            raise framing.too_large(limit)
        if call.unconsumed >= session.WINDOW_STEP:
            self.consume_stream(call)

    def _begin(self, call: Call) -> None:
        """All header fields of a call are there; raises Refusal."""
        settings, method = self.context.settings, call.method
        if call.header_bytes > settings.max_header_bytes:
            raise Refusal(
                Code.RESOURCE_EXHAUSTED, f"the call's metadata has over {settings.max_header_bytes} bytes: send less"
            )
        if method.kind is Kind.REFUSED:
            raise method.refusal()
        self.context.access.check(method, call.token, call.admin_key)
        if call.is_new and method.stopping is None:
            raise stopping()
        if self.context.streams > settings.max_all_streams:
            raise Refusal(
                Code.UNAVAILABLE,
                f"the queue is full: at most {settings.max_all_streams} calls are open; try again later",
            )
        if method.kind in (Kind.STREAM, Kind.WATCH):
            call.conversation = self._begin_conversation(call)

    def ended(self, call: Call) -> None:
        call.is_complete = True
        if call.replied:
            return
        try:
            if call.conversation is not None:
                call.conversation.peer_ended()
            else:
                self._dispatch(call)
        except Refusal as refusal:
            self.give_up(call, refusal)

    def stream_closed(self, call: Call) -> None:
        context = self.context
        context.streams -= 1
        if not call.replied:
            context.counters.cancelled += 1
            context.counters.ended[call.method.name, int(Code.CANCELLED)] += 1
        self._let_go(call)

    def give_up(self, call: Call, refusal: Refusal) -> None:
        """Refuse a call, whatever is under way for it."""
        self.refuse(call, refusal)
        self._let_go(call)

    def _let_go(self, call: Call) -> None:
        self.context.admission.release(call.held)
        call.held = 0
        exchange, call.exchange = call.exchange, None
        if exchange is not None:
            self.context.upstream.abandon(exchange)
        if call.conversation is not None:
            call.conversation.closed()

    def _limit(self, call: Call) -> int:
        is_large = call.method.kind in (Kind.INFER, Kind.ADMIN)
        return self.context.settings.max_message_bytes if is_large else MAX_PASSED_BYTES

    def _dispatch(self, call: Call) -> None:
        """The call has arrived: it goes on to Triton; raises Refusal."""
        context, method = self.context, call.method
        if call.is_new and method.stopping is not None:
            self.reply(call, framing.framed(method.stopping))
            return
        message = framing.only_message(call.body, self._limit(call))
        call.body = bytearray()
        if method.kind is Kind.INFER:
            held, call.held = call.held, 0
            context.inferences.begin(message, call.encoding, call, held, call.extra)
            return
        content = bytes(message.content)
        if message.is_compressed:
            content = framing.inflated(content, call.encoding, self._limit(call))
        extra, key = call.extra, context.settings.upstream_admin_key
        if call.is_public_index:
            content = contract.READY_INDEX
        if method.kind in (Kind.ADMIN, Kind.INDEX) and key is not None:
            extra = (*extra, (ADMIN_KEY.encode(), key.encode()))
        exchange = Exchange(method.path, framing.framed(content), call, extra)
        context.upstream.send(exchange)
        call.exchange = exchange

    # --- answers -------------------------------------------------------------------------------------------------

    def begin_reply(self, call: Call) -> None:
        """Send the headers of a call that is answered bit by bit."""
        call.has_begun = True
        self.lib.submit_response(self.session, call.id, _OK_HEADERS.array, _OK_HEADERS.count, self._provider)
        self.flush_soon()

    def reply(self, call: Call, frame: bytes) -> None:
        """Answer with one message and OK."""
        call.out, call.trailer, call.finished = frame, _OK_TRAILER, True
        self._count(call, Code.OK)
        call.held = len(frame)
        self.context.admission.bytes += call.held
        self.begin_reply(call)

    def refuse(self, call: Call, refusal: Refusal, exchange: Exchange | None = None) -> None:
        """Answer with a status other than OK."""
        self.context.counters.refused[refusal.reason] += 1
        self.context.reports.failed(call, refusal.code, refusal.sentence, exchange or call.exchange or refusal)
        self.end(call, b"%d" % refusal.code, percent_encoded(refusal.sentence))

    def pass_back(self, call: Call, exchange: Exchange) -> None:
        """Answer as Triton did."""
        call.exchange = None
        if exchange.refusal is not None:
            self.refuse(call, exchange.refusal, exchange)
        elif exchange.status != b"0":
            self.context.reports.failed(call, *exchange.error(), exchange)
            self.end(call, exchange.status, exchange.message)
        elif exchange.inquiry:
            self.refuse(call, contract.part_of(exchange.inquiry, self.context.settings.public_models), exchange)
        else:
            frame = bytes(exchange.body)
            if exchange.lane is not None:
                self.context.inferences.answered(exchange)
            elif call.is_public_index:
                public = self.context.settings.public_models
                frame = framing.framed(contract.public_index(frame[framing.PREFIX_BYTES :], public))
            self.reply(call, frame)

    def end(self, call: Call, status: bytes, message: bytes = b"") -> None:
        """End a call with a status, after what has been sent so far."""
        fields = ((b"grpc-status", status), *(((b"grpc-message", message),) if message else ()))
        self._count(call, int(status) if status.isdigit() else int(Code.UNKNOWN))
        if call.has_begun:
            call.trailer, call.finished = Headers(fields), True
            self.lib.session_resume_data(self.session, call.id)
        else:
            headers = Headers((*_BEGIN, *fields))
            self.lib.submit_response(self.session, call.id, headers.array, headers.count, None)
            call.is_sent = True
        if not call.is_complete:
            self.cut_short.append(call)
        self.flush_soon()

    def _count(self, call: Call, code: int) -> None:
        call.replied = True
        call.since = self.context.now
        self.context.counters.ended[call.method.name, int(code)] += 1
        self.context.admission.release(call.held)
        call.held = 0
        call.body.clear()
