"""The users: what one caller sends, and over which connections. A task is one request.

By themselves they are Locust's users, which wait for an answer before they send again; `load.generator` has the same
users send at fixed times, whatever the server does. Importing this module lets gRPC wait in gevent's loop: no channel
may exist yet.
"""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path
from typing import Any, ClassVar

import grpc
import grpc.experimental.gevent as grpc_gevent
from locust import User, constant, task
from tritonclient.grpc import service_pb2_grpc

from load import texts
from load.record import OK, WRONG_ANSWER
from rejection_client import ClientConfig, Tls
from rejection_client._config import read_token
from rejection_client.channels import call_metadata, open_channels
from rejection_client.protocol import infer_request

grpc_gevent.init_gevent()

TEXTS = Path(__file__).parent / "data"


def config_of(options: Any) -> ClientConfig:
    """What `load.cli.add_server_options` was given, in the client's terms; raises ValueError for what cannot be."""
    wants_tls = options.tls or any((options.ca, options.cert, options.key, options.server_name))
    tls = Tls(
        ca_path=options.ca,
        certificate_path=options.cert,
        private_key_path=options.key,
        server_name=options.server_name,
    )
    return ClientConfig(
        model=options.model,
        timeout_s=options.timeout_s,
        tls=tls if wants_tls else None,
        token=read_token(options.token_file) if options.token_file else options.token,
        compression=options.compression,
    )


class Channels:
    """`options.channels` connections of this process, taken in turns; raises ValueError for what is no server."""

    def __init__(self, url: str, options: Any) -> None:
        config = config_of(options)
        self._channels = open_channels(url, config, count=options.channels)
        self._stubs = itertools.cycle([service_pb2_grpc.GRPCInferenceServiceStub(each) for each in self._channels])
        self.count = len(self._channels)
        metadata = (("triton_grpc_error", "true"), *call_metadata(config))
        self.call = {"timeout": options.timeout_s, "metadata": metadata}
        """What each call is made with."""

    def stub(self) -> Any:
        """A stub on the connection whose turn it is."""
        return next(self._stubs)

    def close(self) -> None:
        """Close every connection."""
        for channel in self._channels:
            channel.close()


class RpcFailed(Exception):  # what Locust shows as the error
    """An RPC that failed, by its gRPC code."""


class TritonUser(User):
    """A user with a connection and texts; its kind is its class's name in small letters."""

    abstract = True
    wait_time = constant(0)
    profile: ClassVar[str] = "mixed"
    """File below `data/` that this user draws from, unless --texts names another."""
    rows: ClassVar[int] = 1
    """Texts of a message."""
    messages: ClassVar[int] = 1
    """Of a request: more than one are a stream."""

    options: ClassVar[Any]
    """What `load.cli.add_server_options` was given."""
    channels: ClassVar[Channels]
    _texts: ClassVar[dict[Path, list[str]]] = {}

    @classmethod
    def connect(cls, url: str, options: Any) -> Channels:
        """Set the server and the texts for all kinds of users of this process; ValueError for what is no server."""
        if hasattr(TritonUser, "channels"):
            TritonUser.channels.close()
        TritonUser.options, TritonUser.channels = options, Channels(url, options)
        TritonUser._texts = {}
        return TritonUser.channels

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.stub = self.channels.stub()

    @classmethod
    def texts(cls) -> list[str]:
        """The texts it draws from; raises ValueError if there are none."""
        path = Path(cls.options.texts or TEXTS / f"{cls.profile}.jsonl")
        if path not in TritonUser._texts:
            TritonUser._texts[path] = texts.read(path)
        return TritonUser._texts[path]

    @task
    def act(self) -> None:
        """What Locust calls, for whatever `send` is."""
        self.send()

    def send(self, intended_s: float | None = None) -> None:
        """One request, until all of it is answered; tells Locust what came of it, with the gRPC code of a failure.

        Latency counts from the time it was meant to be sent at (`time.perf_counter`), or else from its sending.
        """
        drawn_from, repeat = self.texts(), self.options.repeat
        requests = [
            infer_request(self.options.model, [some_text(drawn_from, repeat) for _ in range(self.rows)])
            for _ in range(self.messages)
        ]
        outcome, details, size = OK, "", 0
        sent_s = time.perf_counter()
        try:
            answers = self._stream(requests) if self.messages > 1 else [self._infer(requests[0])]
            size = sum(answer.ByteSize() for answer in answers)
            if [answer.outputs[0].shape[0] if answer.outputs else 0 for answer in answers] != [
                self.rows
            ] * self.messages:
                outcome = WRONG_ANSWER
        except grpc.RpcError as error:
            outcome, details = error.code().name, error.details() or ""
        except _StreamFailed as error:
            outcome, details = grpc.StatusCode.UNKNOWN.name, str(error)
        ended_s = time.perf_counter()
        intended_s = sent_s if intended_s is None else intended_s
        self.environment.events.request.fire(
            request_type="gRPC",
            name=type(self).__name__.lower(),
            response_time=1000 * (ended_s - intended_s),
            response_length=size,
            exception=None if outcome == OK else RpcFailed(outcome),
            context={
                "times_s": (intended_s, sent_s, ended_s),
                "texts": self.rows * self.messages,
                "outcome": outcome,
                "details": details,
            },
        )

    def _infer(self, request: Any) -> Any:
        # By `future`: with plain calls under gevent, answers were seen up to 19 s late once about 1,000 were under way.
        return self.stub.ModelInfer.future(request, **self.channels.call).result()

    def _stream(self, requests: list[Any]) -> list[Any]:
        answers = list(self.stub.ModelStreamInfer(iter(requests), **self.channels.call))
        for answer in answers:
            if answer.error_message:
                raise _StreamFailed(answer.error_message)
        return [answer.infer_response for answer in answers]


class _StreamFailed(Exception):
    """What an answer of a stream says in place of one."""


class Single(TritonUser):
    """One text of any usual length a request."""

    weight = 7


class Batch(TritonUser):
    """Many texts in one request."""

    weight = 1
    rows = 16


class Stream(TritonUser):
    """A stream of short texts, one a message; it counts as one request, which ends with the last answer."""

    weight = 1
    profile = "short"
    messages = 8


class Long(TritonUser):
    """One text longer than the model reads."""

    weight = 1
    profile = "long"


USERS: dict[str, type[TritonUser]] = {user.__name__.lower(): user for user in (Single, Batch, Stream, Long)}


def mix(users: str) -> dict[str, int]:
    """Weights by kind of `--users`: a kind, or `mix`."""
    return {kind: int(user.weight) for kind, user in USERS.items()} if users == "mix" else {users: 1}


def some_text(drawn_from: list[str], repeat: float) -> str:
    """A text drawn at random, with a number of its own at the end but for the share `repeat`.

    One that repeats may be known to a response cache; the others are to none.
    """
    text = random.choice(drawn_from)
    return text if random.random() < repeat else f"{text} {random.randrange(10**9)}"
