"""What the client's fault tests run against: real servers with a model that does as its text says, and bad networks."""

import asyncio
import contextlib
import inspect
import socket
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc

from rejection_client import AsyncRejectionClient, RejectionClient
from rejection_server.host import ServeOptions, Server

MakeClient = Callable[..., RejectionClient]
"""`RejectionClient`, or `Blocking` with its manners."""

CONFIG = """
backend: "python"
max_batch_size: 8
input [
  { name: "text" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "max_length" data_type: TYPE_INT32 dims: [ 1 ] optional: true }
]
output [
  { name: "probabilities" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" },
  { name: "token_count" data_type: TYPE_INT32 dims: [ 1 ] }
]
instance_group [ { kind: KIND_CPU count: 1 } ]
dynamic_batching { default_queue_policy { max_queue_size: QUEUE } }
parameters [
  { key: "model_max_length" value: { string_value: "64" } },
  { key: "positive_label" value: { string_value: "REJECTION" } },
  { key: "function_to_apply" value: { string_value: "softmax" } }
]
"""
MODEL = """
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    # The score of a text with "sorry" is 0.9, of any other 0.1; a token is a word, and two are special.
    # "sleep S PATH" writes to PATH, if there is one, that it started, and takes S seconds; "wait PATH" takes ten, and
    # writes to PATH that it started and that its caller went.

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        rows = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        texts = [row[0].decode() for row in rows]
        for text in texts:
            if text.startswith("sleep "):
                _, seconds, *paths = text.split()
                for path in paths:
                    if path.startswith("/"):  # any other is a word of the text
                        Path(path).write_text("started")
                time.sleep(float(seconds))
            elif text.startswith("wait "):
                self.wait(request, Path(text.split()[1]))
            elif text == "bad":
                return pb_utils.InferenceResponse(
                    error=pb_utils.TritonError("this text is bad", pb_utils.TritonError.INVALID_ARG)
                )
        scores = [0.9 if "sorry" in text.lower() else 0.1 for text in texts]
        probabilities = np.array([[1 - score, score] for score in scores], np.float32)
        counts = np.array([[2 + len(text.split())] for text in texts], np.int32)
        tensors = [pb_utils.Tensor("probabilities", probabilities), pb_utils.Tensor("token_count", counts)]
        return pb_utils.InferenceResponse(tensors)

    def wait(self, request, path):
        path.write_text("started")
        for _ in range(200):
            time.sleep(0.05)
            if request.is_cancelled():
                path.write_text("cancelled")
                return
"""


def make_repository(folder: Path, queue: int = 100) -> Path:
    """A model repository with that model; `queue` requests may wait."""
    model = folder / "rejection"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG.replace("QUEUE", str(queue)))
    (model / "labels.txt").write_text("NORMAL\nREJECTION\n")
    (model / "1" / "model.py").write_text(MODEL)
    return folder


def start_servers(
    repository: Path, hosts: tuple[str, ...] = ("127.0.0.1",), port: int = 0, triton_arguments: tuple[str, ...] = ()
) -> list[Server]:
    """Ready servers, started at once, one for each address of this machine."""

    def start(host: str) -> Server:
        # Triton itself: its models see what clients cancel, and tests freeze it.
        server = Server(
            ServeOptions(
                repository=repository,
                host=host,
                grpc_port=port,
                guard=False,
                metrics_port=None,
                silence_s=None,
                triton_arguments=triton_arguments,
            )
        )
        server.start()
        return server

    with ThreadPoolExecutor(len(hosts)) as pool:
        return list(pool.map(start, hosts))


def stop_servers(servers: Sequence[Server]) -> None:
    """Stop them at once."""
    with ThreadPoolExecutor(len(servers)) as pool:
        list(pool.map(Server.kill, servers))
        list(pool.map(Server.wait, servers))


class Cable:
    """A TCP connection between client and server that can be silenced and cut."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._upstream = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.hold_answers = threading.Event()
        self.answer_held = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._upstream)
                self.connections += 1
                self._ends += [near, far]
                threading.Thread(target=self._carry, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._carry, args=(far, near, True), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(65536):
                if answers and self.hold_answers.is_set():
                    self.answer_held.set()
                else:
                    sink.sendall(data)

    def cut_connections(self) -> None:
        """Close what is connected; new connections are taken."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def cut(self) -> None:
        """Close both ends; nobody listens afterwards."""
        # A thread blocked in accept() keeps a merely closed listener alive.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_connections()


class NameServer:
    """A DNS server that knows one thing: the IPv4 addresses of every name."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._closing = False
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(512)
            if self._closing:
                return
            end = query.index(b"\0", 12) + 5  # of the question: a name, its type and its class
            hosts = self.hosts if query[end - 4 : end - 2] == b"\0\1" else ()
            head = query[:2] + b"\x81\x80" + struct.pack("!4H", 1, len(hosts), 0, 0)
            # Each: the name of the question, type A, class IN, a life of 1 s, 4 bytes.
            found = [struct.pack("!3HIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(host) for host in hosts]
            self._socket.sendto(head + query[12:end] + b"".join(found), sender)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._closing = True
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


class Gateway(grpc.GenericRpcHandler):  # type: ignore[misc]  # untyped
    """A gRPC server that passes every call on to another, and remembers what metadata came with each."""

    def __init__(self, address: str, credentials: Any = None, workers: int = 4) -> None:
        self._channel = grpc.insecure_channel(address)
        self.metadata: list[tuple[str, dict[str, str]]] = []
        self._server = grpc.server(ThreadPoolExecutor(workers), handlers=[self])
        port = "127.0.0.1:0"
        bound = self._server.add_secure_port(port, credentials) if credentials else self._server.add_insecure_port(port)
        self._server.start()
        self.port = bound
        self.address = f"127.0.0.1:{bound}"

    def service(self, call: Any) -> Any:
        forward = self._channel.unary_unary(call.method)

        def handle(request: bytes, context: Any) -> Any:
            self.metadata.append((call.method.rpartition("/")[2], dict(context.invocation_metadata())))
            try:
                return forward(request, timeout=30)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())

        return grpc.unary_unary_rpc_method_handler(handle)

    def stop(self) -> None:
        self._server.stop(0).wait()
        self._channel.close()


class Blocking:
    """`AsyncRejectionClient` with the manners of the other, so that one test can be of both; its loop has a thread."""

    def __init__(self, *arguments: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = AsyncRejectionClient(*arguments)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            made = method(*arguments, **options)
            return self._iterate(made) if inspect.isasyncgen(made) else self._run(made)

        return call

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _next(self, results: AsyncIterator[Any]) -> list[Any]:
        return [result async for result in _first(results)]

    def _iterate(self, results: Any) -> Iterator[Any]:
        try:
            while found := self._run(self._next(results)):
                yield found[0]
        finally:
            if self._loop.is_running():
                self._run(results.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _first(results: AsyncIterator[Any]) -> AsyncIterator[Any]:
    with contextlib.suppress(StopAsyncIteration):
        yield await anext(results)


def make_certificates(folder: Path) -> Path:
    """An authority, and certificates of it for the name `triton.test` and for a client, by the command openssl."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
        *("-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"),
    )
    for name, subject in (("server", "triton.test"), ("client", "client")):
        openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{subject}\n")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem"),
        )
    return folder
