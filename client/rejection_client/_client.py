"""The client: one connection, its deadline, and the calls on it."""

import logging
import math
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, overload

import grpc
from tritonclient.grpc import service_pb2_grpc

from rejection_client import _protocol, _status
from rejection_client._prediction import Prediction

_log = logging.getLogger(__name__)

_CHANNEL_OPTIONS = (
    # The server states its own limit, in a better message than gRPC's.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)
_OTHER_SCHEMES = ("http", "https", "grpc", "grpcs", "tcp")
_LIVE_TIMEOUT_S = 0.5


class _Model(NamedTuple):
    """What the client must know of the served model before its first request."""

    labels: tuple[str, ...]
    max_batch_size: int


class RejectionClient:
    """Classifies texts on a Triton server; threads may share one client.

    Nothing is sent until the first call, which also asks the server, once, for the label names and for the largest
    batch it takes. Use it as a context manager, or call `close()`.
    """

    def __init__(self, url: str = "127.0.0.1:8001", *, timeout_s: float = 10.0, model: str = "rejection") -> None:
        """Set the client up, without connecting yet.

        `url` is the server's gRPC address: HOST:PORT without a scheme, or any target gRPC knows (`dns:///...`,
        `unix:...`). `timeout_s` is the deadline of each request in seconds, connecting included. `model` is the name
        under which the server has the classifier. Raises ValueError for an address or a timeout that cannot be.
        """
        scheme, separator, address = url.partition("://")
        if separator and scheme.lower() in _OTHER_SCHEMES:
            raise ValueError(f"url '{url}' has a scheme; give the gRPC address alone: '{address}'")
        if not url:
            raise ValueError("url is empty; give the server's gRPC address, such as '127.0.0.1:8001'")
        if not (timeout_s > 0 and math.isfinite(timeout_s)):
            raise ValueError(f"timeout_s is {timeout_s}; give a number of seconds above 0")
        self._url = url
        self._timeout_s = timeout_s
        self._model_name = model
        self._channel = grpc.insecure_channel(url, options=_CHANNEL_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model: _Model | None = None
        self._model_lock = threading.Lock()

    @overload
    def classify(self, texts: str, *, max_length: int | None = None) -> Prediction: ...  # type: ignore[overload-overlap]  # str first

    @overload
    def classify(self, texts: Sequence[str], *, max_length: int | None = None) -> list[Prediction]: ...

    def classify(self, texts: str | Sequence[str], *, max_length: int | None = None) -> Prediction | list[Prediction]:
        """Classify one text, giving one `Prediction`, or a sequence of texts, giving a list in the same order.

        `max_length` truncates each text to so many tokens, special tokens included: 1 or more, and no more than the
        model's maximum, which is the default. A sequence longer than the server's largest batch goes out as several
        requests, one after the other; `timeout_s` holds for each. Raises a `RejectionError`: when one request fails,
        the call fails.
        """
        if isinstance(texts, str):
            return self._classify_rows([texts], max_length)[0]
        return self._classify_rows(texts, max_length)

    def close(self) -> None:
        """Close the connection; calls still running in other threads end with `RequestCancelledError`."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Give the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def _classify_rows(self, texts: Sequence[str], max_length: int | None) -> list[Prediction]:
        predictions: list[Prediction] = []
        if not texts:
            return predictions
        model = self._served_model()
        for first_row in range(0, len(texts), model.max_batch_size):
            chunk = texts[first_row : first_row + model.max_batch_size]
            request = _protocol.infer_request(self._model_name, chunk, max_length=max_length, first_row=first_row)
            response = self._call("ModelInfer", request, first_row=first_row)
            predictions += _protocol.read_predictions(response, len(chunk), model.labels)
        return predictions

    def _served_model(self) -> _Model:
        if self._model is None:
            with self._model_lock:
                if self._model is None:
                    config = self._call("ModelConfig", _protocol.config_request(self._model_name)).config
                    labels = _protocol.read_labels(self._call("ModelInfer", _protocol.labels_request(self._model_name)))
                    self._model = _Model(labels, max(1, config.max_batch_size))
                    _log.debug("%s serves '%s': %s", self._url, self._model_name, self._model)
        return self._model

    def _call(self, rpc: str, request: Any, *, first_row: int = 0) -> Any:
        """Make one RPC: every call of this client goes through here, for its deadline and its errors."""
        try:
            return getattr(self._stub, rpc)(request, timeout=self._timeout_s)
        except ValueError as error:  # gRPC's sign for a closed channel
            raise RuntimeError("this RejectionClient is closed; make a new one") from error
        except grpc.RpcError as error:
            code = error.code()
            raise _status.error_from_status(
                code,
                error.details() or "",
                url=self._url,
                model=self._model_name,
                timeout_s=self._timeout_s,
                live=code is grpc.StatusCode.UNAVAILABLE and self._is_live(),
                first_row=first_row,
            ) from error

    def _is_live(self) -> bool:
        """Whether the server answers at all, asked after it, or the connection, gave up a call.

        Triton answers this apart from its inference queues, however full they are. The state of the channel would
        say less (behind a proxy it is the proxy's), and gRPC's public way to ask for it can hang a process at exit.
        """
        try:
            answer = self._stub.ServerLive(_protocol.live_request(), timeout=min(self._timeout_s, _LIVE_TIMEOUT_S))
        except (grpc.RpcError, ValueError):
            return False
        return bool(answer.live)
