"""One RPC: to which server, with what deadline, sent again or not, and as which error it ends; over a runtime."""

import logging
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple

import grpc
from tritonclient.grpc import service_pb2_grpc

from rejection_client import _status, protocol
from rejection_client._aio import AsyncioRuntime
from rejection_client._config import ClientConfig
from rejection_client._endpoints import Endpoint, Endpoints
from rejection_client._retry import RetryBudget, backoff_s
from rejection_client._runtime import ClosedError, Metadata, NoSignOfLifeError, Patience
from rejection_client._threads import ThreadRuntime
from rejection_client.channels import Address, Connector, Target, call_metadata, parse_url, warn_of_readable_token
from rejection_client.errors import RejectionError, ServerUnavailableError

_log = logging.getLogger("rejection_client")

LOOK_TIMEOUT_S = 1.0
"""Seconds that a server has to say that it is alive."""
LOOK_COUNTS_S = 0.25
"""Seconds for which that answer counts: refusals of an overloaded server cost few further questions."""
WAIT_STEP_S = 0.05
"""Seconds between two looks for a server to send to, while there is none."""

Runtime = ThreadRuntime | AsyncioRuntime


class Call(NamedTuple):
    """The options of one call of the public methods."""

    timeout_s: float
    metadata: Metadata
    max_length: int | None = None


class _Attempts:
    """What one request has been through."""

    def __init__(self, call: Call, rows: Sequence[int] | None, error: RejectionError) -> None:
        self.call = call
        self.rows = rows
        self.deadline_s = monotonic() + call.timeout_s
        self.outage_ends_s: float | None = None
        """When waiting for servers that are gone is over, from the first time that there was none."""
        self.refusals = 0
        self.tried: set[Endpoint] = set()
        self.error = error
        """The last failure; before the first, that there was nobody to send to."""

    def left_s(self) -> float:
        return max(0.0, self.deadline_s - monotonic())

    def waits_on(self, outage_s: float | None) -> bool:
        """Whether to look again for a server, now that there is none."""
        if outage_s is None:
            return self.left_s() > WAIT_STEP_S
        now_s = monotonic()
        if self.outage_ends_s is None:
            self.outage_ends_s = now_s + outage_s
        if now_s >= self.outage_ends_s:
            return False
        self.deadline_s = now_s + self.call.timeout_s
        return True


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
        self._has_names = any(target.literal() is None for target in self._targets)
        self._known: dict[Target, list[Address]] = {}
        self._look_up_at_s = 0.0
        self._closed = False
        self._has_warned = False

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
        nobody = f"cannot reach {self.url}: no server answers; check the address, and that the server is running"
        attempts = _Attempts(call, rows, ServerUnavailableError(nobody))
        self._budget.add_request()
        try:
            while True:
                endpoint = await self._choose(attempts, self.config.outage_s if retry else None)
                attempts.tried.add(endpoint)
                try:
                    return await self._send_once(endpoint, rpc, request, attempts)
                except NoSignOfLifeError:
                    attempts.error = self._error(endpoint, grpc.StatusCode.UNAVAILABLE, "no sign of life", attempts)
                    self._put_aside(endpoint, "does not answer")
                except grpc.RpcError as error:
                    if await self._is_refused_by_a_live_server(endpoint, error, attempts):
                        await self._pause_after_refusal(attempts, retry)
                if not retry and len(attempts.tried) >= len(self._endpoints):
                    raise attempts.error
        except ClosedError as error:
            raise self.gone(error) from error

    async def _send_once(self, endpoint: Endpoint, rpc: str, request: Any, attempts: _Attempts) -> Any:
        patience = None
        if len(self._endpoints) > 1:
            patience = Patience(self.config.check_after_s, lambda: self._is_answering(endpoint))
        try:
            method = getattr(endpoint.stub, rpc)
            answer = await self._io.call(method, request, attempts.left_s(), attempts.call.metadata, patience)
        finally:
            if self._endpoints.give_back(endpoint):
                self._io.start_background(self._close_retired(endpoint))
        self._restore(endpoint)
        return answer

    async def _is_refused_by_a_live_server(self, endpoint: Endpoint, error: grpc.RpcError, attempts: _Attempts) -> bool:
        """Take note of a failure; False if the server is gone. Raises the error of what must not be sent again.

        A call that nobody here cancelled was cut off by a server that stops, or given up by a proxy of a live one.
        """
        code, details = error.code(), error.details() or ""
        is_cancelled = code is grpc.StatusCode.CANCELLED
        may_pass = _status.may_pass(code, details) or (is_cancelled and not self._closed)
        is_late = code is grpc.StatusCode.DEADLINE_EXCEEDED and self.config.outage_s is not None
        may_pass = may_pass or is_late  # a machine that is gone refuses no connection
        # A server that is stopping, or was killed, was alive a moment ago, too.
        is_live = may_pass and await self._is_answering(endpoint, anew=not _status.says_full(code, details))
        if is_late and not is_live:
            code, details = grpc.StatusCode.UNAVAILABLE, "no sign of life"
        attempts.error = self._error(endpoint, code, details, attempts, is_live=is_live)
        attempts.error.__cause__ = error
        _log.debug("%s: %s", endpoint.address.target, attempts.error)
        if not may_pass or ((is_cancelled or is_late) and is_live):
            self._endpoints.restore(endpoint)
            raise attempts.error
        if not is_live:
            self._put_aside(endpoint, details or "is not reachable")
        return is_live

    async def _pause_after_refusal(self, attempts: _Attempts, retry: bool) -> None:
        """Wait before the refused request is sent again; raises its error if it must not be."""
        attempts.refusals += 1
        pause_s = backoff_s(attempts.refusals, self.config.backoff_initial_s, self.config.backoff_max_s)
        may = retry and attempts.refusals < self.config.max_attempts and pause_s < attempts.left_s()
        if not (may and self._budget.take_retry()):
            raise attempts.error
        await self._io.sleep(pause_s)

    def _error(
        self, endpoint: Endpoint, code: grpc.StatusCode, details: str, attempts: _Attempts, *, is_live: bool = False
    ) -> RejectionError:
        url = endpoint.address.authority if len(self._endpoints) == 1 else endpoint.address.target.partition(":")[2]
        asked = _status.Asked(url, self.config.model, attempts.call.timeout_s, attempts.rows)
        return _status.error_from_status(code, details, asked, is_live=is_live)

    def gone(self, error: ClosedError) -> Exception:
        """What a call ends with because the client was closed."""
        if error.before_call:
            return RuntimeError("this client is closed; make a new one")
        asked = _status.Asked(self.url, self.config.model, self.config.timeout_s)
        return _status.error_from_status(grpc.StatusCode.CANCELLED, "", asked)

    # --- which server --------------------------------------------------------------------------------------------

    async def _choose(self, attempts: _Attempts, outage_s: float | None) -> Endpoint:
        """A server to send to; waits for one that was there to come back, within the deadline or `outage_s`."""
        while True:
            if self._closed:
                raise ClosedError(before_call=not attempts.tried)
            await self._look_up_when_due(attempts.left_s())
            now_s = monotonic()
            for endpoint in self._endpoints.due(now_s, now_s + 2 * LOOK_TIMEOUT_S):
                self._io.start_background(self._look_whether_back(endpoint))
            if (chosen := self._endpoints.take(attempts.tried)) is not None:
                return chosen
            may_come_back = self._endpoints.may_come_back()
            if (attempts.tried and not may_come_back) or not attempts.waits_on(outage_s if may_come_back else None):
                raise attempts.error
            await self._io.sleep(WAIT_STEP_S)

    def _put_aside(self, endpoint: Endpoint, why: str) -> None:
        pause_s = backoff_s(endpoint.failures + 1, self.config.backoff_initial_s, self.config.backoff_max_s)
        if self._endpoints.put_aside(endpoint, monotonic() + pause_s):
            _log.warning("%s is set aside: %s", endpoint.address.target, why)
        # A server that was replaced has a new address.
        self._look_up_at_s = min(self._look_up_at_s, monotonic() + pause_s)

    def _restore(self, endpoint: Endpoint) -> None:
        if self._endpoints.restore(endpoint):
            _log.info("%s answers again", endpoint.address.target)

    async def _look_whether_back(self, endpoint: Endpoint) -> None:
        try:
            if await self._is_answering(endpoint):
                self._restore(endpoint)
            else:
                self._put_aside(endpoint, "still does not answer")
        except ClosedError:
            return

    async def _is_answering(self, endpoint: Endpoint, *, anew: bool = False) -> bool:
        """Whether the server says that it would take requests for the model, asked now or, unless `anew`, just before.

        Triton answers this apart from its inference queues, however full they are. The state of the channel would
        say less (behind a proxy it is the proxy's), and gRPC's public way to ask for it can hang a process at exit.
        """
        if not anew and monotonic() < endpoint.live_until_s:
            return True
        request = protocol.ready_request(self.config.model)
        try:
            answer = await self._io.call(endpoint.stub.ModelReady, request, LOOK_TIMEOUT_S, self.metadata, None)
        except grpc.RpcError:
            return False
        if answer.ready:
            endpoint.live_until_s = monotonic() + LOOK_COUNTS_S
        return bool(answer.ready)

    # --- names ---------------------------------------------------------------------------------------------------

    async def _look_up_when_due(self, timeout_s: float) -> None:
        if not self._known:
            await self._look_up(timeout_s)
        elif self._has_names and monotonic() >= self._look_up_at_s:
            self._look_up_at_s = monotonic() + self.config.resolve_every_s
            self._io.start_background(self._look_up(self.config.resolve_every_s))

    async def _look_up(self, timeout_s: float) -> None:
        """Look every name up; keep what is known of one that cannot be. ServerUnavailableError if nothing is known."""
        failure: OSError | None = None
        why = "no address"
        known = dict(self._known)
        deadline_s = monotonic() + timeout_s
        for target in self._targets:
            literal = target.literal()
            try:
                found = (
                    []
                    if literal
                    else await self._io.look_up(str(target.host), target.port, max(0.0, deadline_s - monotonic()))
                )
            except OSError as error:
                failure = error
                why = error.strerror or f"the name service gave no answer within {timeout_s:.3g} s"
                _log.warning("cannot look up %s: %s", target.name, why)
            else:
                known[target] = [literal] if literal else [target.at(ip) for ip in found]
        addresses = dict.fromkeys(address for target in self._targets for address in known.get(target, ()))
        if not addresses:
            raise ServerUnavailableError(f"cannot look up {self.url}: {why}; check the address") from failure
        self._has_warned = self._has_warned or warn_of_readable_token(self.config, addresses)
        self._known = known
        self._look_up_at_s = monotonic() + self.config.resolve_every_s
        before = len(self._endpoints)
        idle = self._endpoints.update(addresses)
        if before and (idle or len(self._endpoints) != before):
            _log.info("%s is now %s", self.url, ", ".join(address.target for address in addresses))
        for endpoint in idle:
            await self._close_retired(endpoint)

    async def _close_retired(self, endpoint: Endpoint) -> None:
        closing = endpoint.channel.close()
        if self._io.aio:
            await closing

    def _connect(self, address: Address) -> Endpoint:
        channel = self._connector.connect(address, aio=self._io.aio)
        return Endpoint(address, channel, service_pb2_grpc.GRPCInferenceServiceStub(channel))
