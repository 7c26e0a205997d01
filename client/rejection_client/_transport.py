"""One RPC: to which server, with what deadline, sent again or not, and as which error it ends; over a `Runtime`."""

import functools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
from tritonclient.grpc import service_pb2_grpc

from rejection_client import _status, protocol
from rejection_client._config import ClientConfig
from rejection_client._endpoints import Endpoint, Endpoints
from rejection_client._retry import RetryBudget, backoff_s
from rejection_client._runtime import ClosedError, Metadata, NoSignOfLifeError, Runtime, monotonic_s
from rejection_client.channels import Address, Connector, call_metadata, parse_url
from rejection_client.errors import RejectionError, ServerUnavailableError

_log = logging.getLogger("rejection_client")

LOOK_TIMEOUT_S = 1.0
"""Seconds that a server has to say that it is alive."""
LOOK_COUNTS_S = 0.25
"""Seconds for which that answer counts: refusals of an overloaded server cost few further questions."""
WAIT_STEP_S = 0.05
"""Seconds between two looks for a server to send to, while there is none."""


class Call(NamedTuple):
    """The options of one call of the public methods."""

    timeout_s: float
    metadata: Metadata
    max_length: int | None = None


class _Attempts:
    """What one request has been through."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.sent = 0
        self.refusals = 0
        self.tried: set[Endpoint] = set()
        self.error: RejectionError | None = None

    def left_s(self) -> float:
        return self.deadline_s - monotonic_s()


class _Patience:
    """Asks a server that is late with its answer whether it is alive."""

    def __init__(self, transport: "Transport", endpoint: Endpoint) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self.check_s = transport.config.check_after_s

    async def is_alive(self) -> bool:
        return await self._transport.is_answering(self._endpoint)


class Transport:
    """The servers of one client, and every RPC to them."""

    def __init__(self, url: str | Sequence[str], config: ClientConfig, runtime: Runtime) -> None:
        self.config = config
        self.metadata = call_metadata(config)
        self._io = runtime
        self._targets = parse_url(url)
        self.url = ",".join(target.name for target in self._targets)
        self._connector = Connector(config)
        self._endpoints = Endpoints(self._connect)
        self._budget = RetryBudget(config.retry_ratio, config.retry_reserve)
        self._looked_up_s: float | None = None
        self._closed = False

    async def close(self) -> None:
        """Close every connection."""
        if not self._closed:
            self._closed = True
            await self._io.close([endpoint.channel for endpoint in self._endpoints.all()])

    # --- one RPC -------------------------------------------------------------------------------------------------

    async def rpc(
        self, rpc: str, request: Any, call: Call, *, rows: Sequence[int] | None = None, retry: bool = True
    ) -> Any:
        """Make one RPC: every call of this client goes through here, for its deadline, its retries and its errors."""
        attempts = _Attempts(monotonic_s() + call.timeout_s)
        fail = functools.partial(self._error, timeout_s=call.timeout_s, rows=rows)
        self._budget.add_request()
        try:
            while True:
                endpoint = await self._choose(attempts)
                attempts.sent += 1
                attempts.tried.add(endpoint)
                try:
                    return await self._send_once(endpoint, rpc, request, attempts, call.metadata)
                except NoSignOfLifeError:
                    attempts.error = fail(endpoint, grpc.StatusCode.UNAVAILABLE, "no sign of life", live=False)
                    self._put_aside(endpoint, "does not answer")
                except grpc.RpcError as error:
                    code = error.code()
                    unavailable = code is grpc.StatusCode.UNAVAILABLE
                    live = unavailable and await self.is_answering(endpoint)
                    attempts.error = fail(endpoint, code, error.details() or "", live=live)
                    attempts.error.__cause__ = error
                    _log.debug("%s to %s: %s", rpc, endpoint.address.target, attempts.error)
                    if not unavailable:
                        self._endpoints.restore(endpoint)
                        raise attempts.error from error
                    if live:
                        await self._pause_after_refusal(attempts, retry)
                    else:
                        self._put_aside(endpoint, error.details() or "is not reachable")
                if not retry and len(attempts.tried) >= len(self._endpoints):
                    raise attempts.error
        except ClosedError as error:
            raise self.gone(error) from error

    async def _send_once(
        self, endpoint: Endpoint, rpc: str, request: Any, attempts: _Attempts, metadata: Metadata
    ) -> Any:
        patience = _Patience(self, endpoint) if len(self._endpoints) > 1 else None
        try:
            method = getattr(endpoint.stub, rpc)
            answer = await self._io.call(method, request, max(0.0, attempts.left_s()), metadata, patience)
        finally:
            if self._endpoints.give_back(endpoint):
                self._io.start_background(self._close_retired(endpoint))
        if self._endpoints.restore(endpoint):
            _log.info("%s answers again", endpoint.address.target)
        return answer

    async def _pause_after_refusal(self, attempts: _Attempts, retry: bool) -> None:
        """Wait before the refused request is sent again; raises its error if it must not be."""
        assert attempts.error is not None
        attempts.refusals += 1
        pause_s = backoff_s(attempts.refusals, self.config.backoff_initial_s, self.config.backoff_max_s)
        may = retry and attempts.refusals < self.config.max_attempts and pause_s < attempts.left_s()
        if not may or not self._budget.take_retry():
            raise attempts.error
        await self._io.sleep(pause_s)

    def _error(
        self,
        endpoint: Endpoint,
        code: grpc.StatusCode,
        details: str,
        *,
        live: bool,
        timeout_s: float,
        rows: Sequence[int] | None,
    ) -> RejectionError:
        url = endpoint.address.authority if len(self._endpoints) == 1 else endpoint.address.target.partition(":")[2]
        return _status.error_from_status(
            code, details, url=url, model=self.config.model, timeout_s=timeout_s, live=live, rows=rows
        )

    def gone(self, error: ClosedError) -> Exception:
        """What a call ends with because the client was closed."""
        if error.before_call:
            return RuntimeError("this client is closed; make a new one")
        return _status.error_from_status(
            grpc.StatusCode.CANCELLED, "", url=self.url, model=self.config.model, timeout_s=self.config.timeout_s
        )

    # --- which server --------------------------------------------------------------------------------------------

    async def _choose(self, attempts: _Attempts) -> Endpoint:
        """A server to send to; waits for one that was there to come back, as long as the deadline allows."""
        while True:
            if self._closed:
                raise ClosedError(before_call=not attempts.sent)
            await self._look_up_names(attempts)
            self._look_at_those_set_aside()
            endpoint = self._endpoints.take(attempts.tried)
            if endpoint is not None:
                return endpoint
            if attempts.error is not None and not self._endpoints.may_come_back():
                raise attempts.error
            if attempts.left_s() <= WAIT_STEP_S:
                raise attempts.error or ServerUnavailableError(
                    f"cannot reach {self.url}: no server answers; check the address, and that the server is running"
                )
            await self._io.sleep(WAIT_STEP_S)

    def _put_aside(self, endpoint: Endpoint, why: str) -> None:
        pause_s = backoff_s(endpoint.failures + 1, self.config.backoff_initial_s, self.config.backoff_max_s)
        if self._endpoints.put_aside(endpoint, monotonic_s() + pause_s):
            _log.warning("%s is set aside: %s", endpoint.address.target, why)
        # A server that was replaced has a new address.
        self._looked_up_s = min(self._looked_up_s or 0.0, monotonic_s() - self.config.resolve_every_s + pause_s)

    def _look_at_those_set_aside(self) -> None:
        now_s = monotonic_s()
        for endpoint in self._endpoints.due(now_s, now_s + 2 * LOOK_TIMEOUT_S):
            self._io.start_background(self._look_whether_back(endpoint))

    async def _look_whether_back(self, endpoint: Endpoint) -> None:
        try:
            if await self.is_answering(endpoint):
                if self._endpoints.restore(endpoint):
                    _log.info("%s answers again", endpoint.address.target)
            else:
                self._put_aside(endpoint, "still does not answer")
        except ClosedError:
            return

    async def is_answering(self, endpoint: Endpoint) -> bool:
        """Whether the server says, asked now or a moment ago, that it would take requests for the model.

        Triton answers this apart from its inference queues, however full they are. The state of the channel would
        say less (behind a proxy it is the proxy's), and gRPC's public way to ask for it can hang a process at exit.
        """
        if monotonic_s() < endpoint.live_until_s:
            return True
        request = protocol.ready_request(self.config.model)
        try:
            answer = await self._io.call(endpoint.stub.ModelReady, request, LOOK_TIMEOUT_S, self.metadata, None)
        except grpc.RpcError:
            return False
        if answer.ready:
            endpoint.live_until_s = monotonic_s() + LOOK_COUNTS_S
        return bool(answer.ready)

    async def _look_up_names(self, attempts: _Attempts) -> None:
        now_s = monotonic_s()
        if self._looked_up_s is None:
            try:
                await self._look_up()
            except OSError as error:
                raise ServerUnavailableError(
                    f"cannot look up {self.url}: {error.strerror or error}; check the address"
                ) from error
        elif now_s - self._looked_up_s >= self.config.resolve_every_s and self._has_names():
            self._looked_up_s = now_s
            self._io.start_background(self._look_up_again())

    def _has_names(self) -> bool:
        return any(target.literal() is None for target in self._targets)

    async def _look_up(self) -> None:
        addresses: list[Address] = []
        failure: OSError | None = None
        for target in self._targets:
            address = target.literal()
            if address is not None:
                addresses.append(address)
                continue
            try:
                found = await self._io.look_up(str(target.host), target.port)
            except OSError as error:
                failure = error
            else:
                addresses += [target.at(ip) for ip in found]
        if not addresses and failure is not None:
            raise failure
        before = len(self._endpoints)
        idle = self._endpoints.update(dict.fromkeys(addresses))
        self._looked_up_s = monotonic_s()
        if before and (idle or len(self._endpoints) != before):
            _log.info("%s is now %s", self.url, ", ".join(address.target for address in addresses))
        for endpoint in idle:
            await self._close_retired(endpoint)

    async def _look_up_again(self) -> None:
        try:
            await self._look_up()
        except OSError as error:  # keep what is known
            _log.warning("cannot look up %s: %s", self.url, error.strerror or error)

    async def _close_retired(self, endpoint: Endpoint) -> None:
        closing = endpoint.channel.close()
        if self._io.aio:
            await closing

    def _connect(self, address: Address) -> Endpoint:
        channel = self._connector.connect(address, aio=self._io.aio)
        return Endpoint(address, channel, service_pb2_grpc.GRPCInferenceServiceStub(channel))
