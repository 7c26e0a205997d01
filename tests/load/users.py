"""The users: what one caller sends. Each task is one request, in two lines.

By themselves they are Locust's users, which wait for an answer before they send again; `load.generator` runs the same
tasks at fixed times, whatever the server does.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any, ClassVar

import grpc
from locust import User, constant, task

from load.rpc import Channels, Connection, read_texts
from rejection_client.protocol import infer_request

TEXTS = Path(__file__).parent / "texts"
BATCH = 16
STREAM = 8


class TritonUser(User):
    """A user with a connection and texts."""

    abstract = True
    wait_time = constant(0)
    profile: ClassVar[str]
    """File below `texts/` that this user draws from, unless --texts names another."""
    rows: ClassVar[int] = 1
    """Texts of a request."""

    connection: ClassVar[Connection]
    texts_path: ClassVar[Path | None] = None
    repeat: ClassVar[float] = 0.0
    channels: ClassVar[Channels | None] = None
    _texts: ClassVar[dict[Path, list[str]]] = {}

    @classmethod
    def connect(cls, connection: Connection, texts_path: Path | None = None, repeat: float = 0.0) -> Channels:
        """Set the server and the texts for all kinds of users of this process.

        `repeat` is the share of texts sent as they are in the file, which a response cache may know; the others get a
        number of their own at the end.
        """
        if TritonUser.channels is not None:
            TritonUser.channels.close()
        TritonUser.connection, TritonUser.texts_path, TritonUser.repeat = connection, texts_path, repeat
        TritonUser.channels = Channels(connection)
        TritonUser._texts = {}
        return TritonUser.channels

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        assert TritonUser.channels is not None, "connect comes first"
        self.stub = TritonUser.channels.stub(environment.events.request.fire, self.kind())
        self.options = {"timeout": self.connection.timeout_s, "metadata": TritonUser.channels.metadata}

    @classmethod
    def kind(cls) -> str:
        """Its name on the command line and in reports."""
        return cls.__name__.lower()

    @classmethod
    def texts(cls) -> list[str]:
        """The texts it draws from."""
        path = TritonUser.texts_path or TEXTS / f"{cls.profile}.jsonl"
        if path not in TritonUser._texts:
            TritonUser._texts[path] = read_texts(path)
        return TritonUser._texts[path]

    def some_request(self) -> Any:
        """A request with texts drawn at random."""
        return infer_request(self.connection.model, [self._some_text() for _ in range(self.rows)])

    def _some_text(self) -> str:
        text = random.choice(self.texts())
        return text if random.random() < TritonUser.repeat else f"{text} {random.randrange(10**9)}"

    def infer(self, request: Any) -> None:
        """One answer to one request; the interceptor has told of a failure before it gets here.

        By `future`: with plain calls under gevent, answers were seen up to 19 s late once about 1,000 were under way.
        """
        with contextlib.suppress(grpc.RpcError):
            self.stub.ModelInfer.future(request, **self.options).result()

    def infer_stream(self, requests: list[Any]) -> None:
        """The requests as messages of one stream, until the last is answered."""
        with contextlib.suppress(grpc.RpcError):
            for _ in self.stub.ModelStreamInfer(iter(requests), **self.options):
                pass


class Single(TritonUser):
    """One text of any usual length a request."""

    weight = 7
    profile = "mixed"

    @task
    def classify(self) -> None:
        self.infer(self.some_request())


class Batch(TritonUser):
    """Many texts in one request."""

    weight = 1
    profile = "mixed"
    rows = BATCH

    @task
    def classify(self) -> None:
        self.infer(self.some_request())


class Stream(TritonUser):
    """A stream of short texts, one a message; it counts as one request, which ends with the last answer."""

    weight = 1
    profile = "short"

    @task
    def classify(self) -> None:
        self.infer_stream([self.some_request() for _ in range(STREAM)])


class Long(TritonUser):
    """One text longer than the model reads."""

    weight = 1
    profile = "long"

    @task
    def classify(self) -> None:
        self.infer(self.some_request())


KINDS: dict[str, type[TritonUser]] = {user.kind(): user for user in (Single, Batch, Stream, Long)}


def mix(users: str) -> dict[str, int]:
    """Weights by kind of `--users`: a kind, or `mix`."""
    return {kind: int(user.weight) for kind, user in KINDS.items()} if users == "mix" else {users: 1}
