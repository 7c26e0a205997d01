"""gRPC under gevent: one process, thousands of calls under way, and one interceptor that times every one of them.

Importing this module lets gRPC wait in gevent's loop; gevent must have patched the standard library before (importing
locust does), and no channel may exist yet.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.experimental.gevent as grpc_gevent
from gevent.local import local
from tritonclient.grpc import service_pb2_grpc

from load.record import OK
from rejection_client import ClientConfig, Tls
from rejection_client.channels import open_channels

grpc_gevent.init_gevent()

WRONG_ANSWER = "WRONG_ANSWER"
"""Outcome of an answer with another number of rows than the request."""
Fire = Callable[..., Any]

_intended = local()


@dataclass(frozen=True)
class Connection:
    """Everything that connections to the server are made of; goes to the workers as JSON."""

    url: str
    """HOST:PORT; several with commas between share the load."""
    model: str = "rejection"
    timeout_s: float = 10.0
    channels: int = 4
    """HTTP/2 connections of each worker process: a single one carries at most about 1,000 requests a second here."""
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None
    token: str | None = None
    compression: str = "none"

    def config(self) -> ClientConfig:
        """In the client's terms; raises ValueError for what cannot be."""
        wants_tls = self.tls or any((self.ca, self.cert, self.key, self.server_name))
        tls = Tls(
            ca_path=self.ca,
            certificate_path=self.cert,
            private_key_path=self.key,
            server_name=self.server_name,
        )
        return ClientConfig(
            model=self.model,
            timeout_s=self.timeout_s,
            tls=tls if wants_tls else None,
            token=self.token,
            compression=self.compression,  # type: ignore[arg-type]  # checked by ClientConfig
        )

    def to_plain(self) -> dict[str, Any]:
        """For a message; the certificates are read by each worker from these paths."""
        return asdict(self)


class RpcFailed(Exception):  # what Locust shows as the error
    """An RPC that failed, by its gRPC code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Timer(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):  # type: ignore[misc]  # untyped
    """Times each RPC and tells Locust, with the gRPC code of those that fail.

    Inside `intended_at`, latency counts from the time a request was meant to be sent at.
    """

    def __init__(self, fire: Fire, name: str) -> None:
        self._fire = fire
        self._name = name

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        sent_s = time.perf_counter()
        answer = continuation(client_call_details, request)
        error = answer.exception()
        rows = request.inputs[0].shape[0]
        if error is not None:
            self._tell(sent_s, error.code().name, rows, 0, error.details() or "")
        else:
            response = answer.result()
            self._tell(sent_s, _check(response, rows), rows, response.ByteSize())
        return answer

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        sent_s = time.perf_counter()
        rows: list[int] = []

        def counted() -> Iterator[Any]:
            for request in request_iterator:
                rows.append(request.inputs[0].shape[0])
                yield request

        answers = continuation(client_call_details, counted())

        def timed() -> Iterator[Any]:
            outcome, received, size, details = OK, 0, 0, ""
            try:
                for answer in answers:
                    if answer.error_message:
                        outcome, details = "UNKNOWN", answer.error_message
                    received += 1
                    size += answer.ByteSize()
                    yield answer
            except grpc.RpcError as error:
                self._tell(sent_s, error.code().name, sum(rows), size, error.details() or "")
                raise
            # Not reached by a stream whose user is stopped in the middle: that one says nothing about the server.
            if outcome == OK and received != len(rows):
                outcome = WRONG_ANSWER
            self._tell(sent_s, outcome, sum(rows), size, details)

        return timed()

    def _tell(self, sent_s: float, outcome: str, rows: int, size: int, details: str = "") -> None:
        intended_s = getattr(_intended, "time_s", sent_s)
        now_s = time.perf_counter()
        self._fire(
            request_type="gRPC",
            name=self._name,
            response_time=1000 * (now_s - intended_s),
            response_length=size,
            exception=None if outcome == OK else RpcFailed(outcome),
            context={
                "intended_s": intended_s,
                "sent_s": sent_s,
                "ended_s": now_s,
                "rows": rows,
                "outcome": outcome,
                "details": details,
            },
        )


def intended_at(time_s: float) -> None:
    """The RPCs of this greenlet were meant to be sent at this time (`time.perf_counter`)."""
    _intended.time_s = time_s


class Channels:
    """Connections of this process, taken in turns."""

    def __init__(self, connection: Connection) -> None:
        self._channels = open_channels(connection.url, connection.config(), count=connection.channels)
        self._turn = itertools.cycle(self._channels)
        self.count = len(self._channels)
        self.metadata: tuple[tuple[str, str], ...] = (("triton_grpc_error", "true"),)
        if connection.token:
            self.metadata += (("authorization", f"Bearer {connection.token}"),)

    def stub(self, fire: Fire, name: str) -> Any:
        """A stub whose RPCs are timed, on the connection whose turn it is."""
        return service_pb2_grpc.GRPCInferenceServiceStub(grpc.intercept_channel(next(self._turn), Timer(fire, name)))

    def plain_stub(self) -> Any:
        """A stub whose RPCs nobody times."""
        return service_pb2_grpc.GRPCInferenceServiceStub(next(self._turn))

    def close(self) -> None:
        """Close every connection."""
        for channel in self._channels:
            channel.close()


def read_texts(path: Path) -> list[str]:
    """Texts of a file: JSON lines with the field `text` where the name ends in .jsonl, else a text a line.

    Raises ValueError, with a sentence, for a file without texts.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        texts = [json.loads(line)["text"] for line in lines] if path.suffix == ".jsonl" else lines
    except OSError as exc:
        raise ValueError(f"the texts {path} cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ValueError(f'the texts {path} are not UTF-8 JSON lines with a field "text": {exc}') from exc
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f'the texts {path} hold no texts: a text a line, or JSON lines with a field "text"')
    return texts


def _check(response: Any, rows: int) -> str:
    return OK if response.outputs and response.outputs[0].shape[0] == rows else WRONG_ANSWER
