"""A caller's connection: its calls, what is refused, what goes on to Triton, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import byref, c_void_p, string_at

from rejection_server.guard import contract, framing, nghttp2, session
from rejection_server.guard.context import Context
from rejection_server.guard.methods import METADATA_PATH, MODEL_INFER_PATH, UNKNOWN, Kind, Method, method_of
from rejection_server.guard.nghttp2 import Headers
from rejection_server.guard.refusal import Code, Refusal, percent_encoded
from rejection_server.guard.session import Session, Stream
from rejection_server.guard.up import Exchange, Owner

__all__ = ["Call", "Caller", "Conversation", "exchange_for"]

MAX_PASSED_BYTES = 4096
"""Longest message of a method other than inference: Triton repeats the name in it in a header."""
MAX_EXTRA_BYTES = 1024
"""Longest value of a header that is passed on."""
_PATH_LENGTH, _ENCODING_LENGTH = len(":path"), len("grpc-encoding")
_PASSED_ON = {len(name): name for name in (b"triton_grpc_error", b"traceparent", b"tracestate")}
_BEGIN = (
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", framing.ACCEPTED_ENCODINGS.encode()),
)
_OK_HEADERS = Headers(_BEGIN)
OK_TRAILER = Headers([(b"grpc-status", b"0")])


class Conversation:
    """What a call with more than one message does; see `stream`."""

    def came(self) -> None:
        """There is more in the call's body."""
        raise NotImplementedError

    def peer_ended(self) -> None:
        """Nothing follows in the call's body."""
        raise NotImplementedError

    def taken(self) -> None:
        """The caller took some of what was sent."""

    def closed(self) -> None:
        """The call is over."""

    def is_late(self) -> bool:
        """Whether the caller is to go on, not the guard."""
        return False

    def stop(self) -> None:
        """The guard is stopping."""


class Call(Stream):
    """One call of a caller."""

    __slots__ = (
        "connection",
        "conversation",
        "encoding",
        "exchange",
        "extra",
        "header_bytes",
        "held",
        "is_complete",
        "method",
        "replied",
        "since",
    )

    def __init__(self, stream_id: int, connection: Caller, since: float) -> None:
        super().__init__(stream_id)
        self.connection = connection
        self.since = since
        """When the caller last had to do something, by the context's clock."""
        self.method = UNKNOWN
        self.encoding = ""
        self.extra: tuple[tuple[bytes, bytes], ...] = ()
        self.header_bytes = 0
        self.held = 0
        """Bytes admitted for what arrived and did not go on."""
        self.is_complete = False
        """Whether all that the caller has to say has arrived."""
        self.replied = False
        """Whether its status is decided."""
        self.exchange: Exchange | None = None
        self.conversation: Conversation | None = None

    def answered(self, exchange: Exchange) -> None:
        """Triton's answer is the call's."""
        self.connection.pass_back(self, exchange)

    def taken(self) -> None:
        if self.conversation is not None:
            self.conversation.taken()


class Caller(Session):
    """One connection of a caller.

    Args:
        context: the guard.
        options: of libnghttp2.
        begin_conversation: makes the conversation of a call with several messages.
        connections: all that are open; this one adds and removes itself.
    """

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
        self._since = context.now
        self._cut_short: list[Call] = []
        """Calls that were refused while they arrived: the rest of them is not wanted."""

    # --- connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: object) -> None:
        """Begin, if there is room and the caller speaks HTTP/2."""
        if len(self._connections) >= self.context.settings.max_connections:
            transport.abort()  # type: ignore[attr-defined]
            return
        tls = transport.get_extra_info("ssl_object")  # type: ignore[attr-defined]
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            transport.abort()  # type: ignore[attr-defined]
            return
        self._connections.add(self)
        super().connection_made(transport)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller is gone; what Triton has of it runs to its end."""
        self._connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count, then read."""
        self.context.counters.received_bytes += len(data)
        super().data_received(data)

    def sent(self, size: int) -> None:
        self.context.counters.sent_bytes += size

    def flush(self) -> None:
        """Send; then end what was cut short, as the library drops an answer whose stream was reset before it went."""
        super().flush()
        if self._cut_short and self.paused_since is None:
            calls, self._cut_short = self._cut_short, []
            for call in calls:
                if not call.closed and not call.is_complete:
                    self.reset(call)
            super().flush()

    def stop(self) -> None:
        """Ask the caller to go elsewhere; calls under way go on."""
        if self.session:
            self.lib.submit_shutdown_notice(self.session)
            for call in list(self.streams.values()):
                if call.conversation is not None:
                    call.conversation.stop()
            self.flush_soon()

    def sweep(self) -> None:
        """Once a second: end what takes too long."""
        now, settings = self.context.now, self.context.settings
        is_stuck = self.paused_since is not None and now - self.paused_since > settings.write_timeout_s
        if is_stuck or (not self.greeted and now - self._since > settings.handshake_timeout_s):
            self.transport.abort()
        elif self.streams:
            self._since = now
            for call in list(self.streams.values()):
                self._sweep_call(call, now)
        elif self.greeted and now - self._since > settings.idle_timeout_s:
            self.terminate()

    def _sweep_call(self, call: Call, now: float) -> None:
        settings = self.context.settings
        if call.replied:
            if now - call.since > settings.write_timeout_s:
                self.reset(call, nghttp2.CANCEL)
                self.flush_soon()
        elif now - call.since > settings.receive_timeout_s:
            is_late = not call.is_complete if call.conversation is None else call.conversation.is_late()
            if is_late:
                self.refuse(
                    call,
                    Refusal(
                        Code.DEADLINE_EXCEEDED, f"the request did not arrive within {settings.receive_timeout_s:g} s"
                    ),
                )

    # --- calls ---------------------------------------------------------------------------------------------------

    def headers_began(self, stream_id: int) -> None:
        if stream_id in self.streams:  # trailers: of no interest
            self.current = None
            return
        self.current = self.streams[stream_id] = Call(stream_id, self, self.context.now)
        self.context.streams += 1

    def header(self, name_address: int, name_length: int, value_address: int, value_length: int) -> int:
        call = self.current
        if call is None:
            return 0
        call.header_bytes += name_length + value_length + 32
        if call.header_bytes > self.context.settings.max_header_bytes:
            return nghttp2.ERR_TEMPORAL_CALLBACK_FAILURE
        if name_length == _PATH_LENGTH:
            if string_at(name_address, name_length) == b":path":
                call.method = method_of(string_at(value_address, value_length))
                if call.method.kind in (Kind.STREAM, Kind.WATCH):
                    call.conversation = self._begin_conversation(call)
        elif name_length == _ENCODING_LENGTH:
            if string_at(name_address, name_length) == b"grpc-encoding":
                call.encoding = string_at(value_address, value_length).decode("latin-1")
        elif name_length in _PASSED_ON:
            name = string_at(name_address, name_length)
            if name == _PASSED_ON[name_length] and value_length <= MAX_EXTRA_BYTES and len(call.extra) < 3:
                call.extra = (*call.extra, (name, string_at(value_address, value_length)))
        return 0

    def data_came(self, call: Call, size: int) -> None:
        if call.replied:
            call.body.clear()
            return
        try:
            self._arrived(call, size)
        except Refusal as refusal:
            self.refuse(call, refusal)

    def _arrived(self, call: Call, size: int) -> None:
        """More of a call: let it go on, or raise Refusal."""
        call.held += size
        self.context.admission.hold(size)
        most = self.context.settings.max_all_streams
        if self.context.streams > most and len(call.body) == size:
            raise Refusal(Code.UNAVAILABLE, f"the queue is full: at most {most} calls are open")
        if call.conversation is not None:
            call.conversation.came()
            return
        if call.method.kind is Kind.REFUSED:
            raise call.method.refusal()
        limit = self._limit(call.method)
        if len(call.body) > limit + framing.PREFIX_BYTES:
            raise framing.too_large(limit)
        if call.unconsumed >= session.WINDOW_STEP:
            self.consume_stream(call)

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
            self.refuse(call, refusal)

    def stream_closed(self, call: Call, error: int) -> None:  # noqa: ARG002 - a hook
        context = self.context
        context.streams -= 1
        context.admission.release(call.held)
        call.held = 0
        if not call.replied:
            context.counters.cancelled += 1
            context.counters.ended[call.method.name, int(Code.CANCELLED)] += 1
            if call.exchange is not None:
                context.upstream.abandon(call.exchange)
        if call.conversation is not None:
            call.conversation.closed()

    def _limit(self, method: Method) -> int:
        return self.context.settings.max_message_bytes if method.kind is Kind.INFER else MAX_PASSED_BYTES

    def _dispatch(self, call: Call) -> None:
        context, method = self.context, call.method
        if method.kind is Kind.REFUSED:
            raise method.refusal()
        if context.stopping:
            if method.stopping is None:
                raise Refusal(Code.UNAVAILABLE, "the server is stopping")
            self.reply(call, framing.framed(method.stopping))
            return
        if method.kind is Kind.INFER:
            context.admission.enter()
            try:
                message = framing.only_message(call.body, call.encoding, context.settings.max_message_bytes)
                exchange = exchange_for(context, message, call, call)
            except Refusal:
                context.admission.leave()
                raise
            call.held = 0
        else:
            message = framing.only_message(call.body, call.encoding, MAX_PASSED_BYTES)
            exchange = Exchange(method.path, framing.framed(message), call, call.extra)
        call.body.clear()
        call.exchange = exchange
        context.upstream.send(exchange)

    # --- answers -------------------------------------------------------------------------------------------------

    def begin_reply(self, call: Call) -> None:
        """Send the headers of a call that is answered bit by bit."""
        self.lib.submit_response(self.session, call.id, _OK_HEADERS.array, _OK_HEADERS.count, byref(session.provider()))
        self.flush_soon()

    def reply(self, call: Call, frame: bytes) -> None:
        """Answer with one message and OK."""
        call.out, call.trailer, call.finished = frame, OK_TRAILER, True
        self._count(call, Code.OK)
        self.begin_reply(call)

    def refuse(self, call: Call, refusal: Refusal) -> None:
        """Answer with a status other than OK."""
        self.context.counters.refused += 1
        self._end(call, b"%d" % refusal.code, percent_encoded(refusal.sentence))

    def pass_back(self, call: Call, exchange: Exchange) -> None:
        """Answer as Triton did."""
        if exchange.status == b"0" and not exchange.inquiry:
            self.reply(call, bytes(exchange.body))
        elif exchange.status == b"0":
            self.refuse(call, contract.part_of(exchange.inquiry, self.context.settings.public_models))
        else:
            self._end(call, exchange.status, exchange.message)

    def finish(self, call: Call, trailer: Headers, code: int) -> None:
        """End a call that is answered bit by bit, after what has been sent so far."""
        call.trailer, call.finished = trailer, True
        self._count(call, code)
        self.lib.session_resume_data(self.session, call.id)
        self.flush_soon()

    def _end(self, call: Call, status: bytes, message: bytes) -> None:
        code = int(status) if status.isdigit() else int(Code.UNKNOWN)
        fields = ((b"grpc-status", status), *(((b"grpc-message", message),) if message else ()))
        if call.conversation is not None:
            self.finish(call, Headers(fields), code)
            return
        self._count(call, code)
        headers = Headers((*_BEGIN, *fields))
        self.lib.submit_response(self.session, call.id, headers.array, headers.count, None)
        if not call.is_complete:
            self._cut_short.append(call)
        self.flush_soon()

    def _count(self, call: Call, code: int) -> None:
        call.replied = True
        call.since = self.context.now
        self.context.counters.ended[call.method.name, int(code)] += 1
        self.context.admission.release(call.held)
        call.held = 0
        call.body.clear()


def exchange_for(context: Context, message: bytes, call: Call, owner: Owner, held: int | None = None) -> Exchange:
    """The call of Triton for an admitted inference request of `call`, with the bytes that are held for it.

    `held`: how many, all of the call's if None. What a compressed message grows to counts too. Raises Refusal.
    """
    settings, admission = context.settings, context.admission
    held = call.held if held is None else held
    grown = max(0, len(message) - held)
    try:
        admission.hold(grown)
        request = contract.checked_request(message, settings.max_elements)
    except Refusal:
        admission.release(grown)
        raise
    if request.model_name in settings.public_models:
        frame = framing.framed(request.SerializeToString())
        exchange = Exchange(MODEL_INFER_PATH, frame, owner, call.extra)
    else:
        exchange = Exchange(METADATA_PATH, framing.framed(contract.metadata_request(request)), owner, call.extra)
        exchange.inquiry = request.model_name
    exchange.is_inference = True
    exchange.held = held + grown
    return exchange
