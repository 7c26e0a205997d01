"""Ask a Triton over gRPC whether it is ready."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

__all__ = ["HealthProbe"]

RPC_TIMEOUT_S = 2.0


class HealthProbe:
    """Asks one server again and again; close it when done.

    Args:
        address: of its gRPC service, HOST:PORT or unix:PATH.
        listeners: where all its services listen, address and port or the path of a socket. Triton opens one after the
            other, gRPC first.
        speaks_grpc: False where TLS is on, for which the probe has no certificates: it then takes the open port for the
            answer, which Triton opens only after it has loaded the models.
        every_model: whether every model has to be ready, or only the server alive.
        metadata: what opens administration, and with it the state of each model; None where nothing does, as with a
            guard, whose word then counts.
    """

    def __init__(
        self,
        address: str,
        listeners: Sequence[tuple[str, int] | str] = (),
        *,
        speaks_grpc: bool = True,
        every_model: bool = True,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._listeners = listeners
        self._speaks_grpc = speaks_grpc
        self._every_model = every_model
        self._metadata = metadata
        self._client = triton.InferenceServerClient(address)

    def is_ready(self) -> bool:
        """Whether the server listens on every port, answers and says that it is ready."""
        # gRPC waits longer and longer between attempts to connect; a plain connection says at once that it is time.
        if not all(_is_open(listener) for listener in self._listeners):
            return False
        if not self._speaks_grpc:
            return True
        try:
            if not self._every_model:
                return bool(self._client.is_server_live(client_timeout=RPC_TIMEOUT_S))
            if not self._client.is_server_ready(client_timeout=RPC_TIMEOUT_S):
                return False
            if self._metadata is None:
                return True
            index = self._client.get_model_repository_index(headers=self._metadata, client_timeout=RPC_TIMEOUT_S)
        except InferenceServerException:
            return False
        # A model that is in the repository but was not asked for (explicit model control) has no state.
        return all(model.state in ("READY", "") for model in index.models)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _is_open(listener: tuple[str, int] | str) -> bool:
    try:
        if isinstance(listener, tuple):
            socket.create_connection(listener, timeout=RPC_TIMEOUT_S).close()
        else:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(listener)
    except OSError:
        return False
    return True
