"""Ask a Triton over gRPC whether it is ready."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

__all__ = ["HealthProbe"]

RPC_TIMEOUT_S = 2.0


class HealthProbe:
    """Asks one server again and again; close it when done.

    Args:
        address: HOST:PORT of its gRPC service.
        listeners: address and port of all its services. Triton opens its ports one after the other, gRPC first.
        speaks_grpc: False where TLS is on, for which the probe has no certificates: it then takes the open port for the
            answer, which Triton opens only after it has loaded the models.
        every_model: whether every model has to be ready, or only the server alive.
        lists_models: whether the server tells the state of each model, which a guard does not.
    """

    def __init__(
        self,
        address: str,
        listeners: Sequence[tuple[str, int]] = (),
        *,
        speaks_grpc: bool = True,
        every_model: bool = True,
        lists_models: bool = True,
    ) -> None:
        self._listeners = listeners
        self._speaks_grpc = speaks_grpc
        self._every_model = every_model
        self._lists_models = lists_models
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
            if not self._lists_models:
                return True
            index = self._client.get_model_repository_index(client_timeout=RPC_TIMEOUT_S)
        except InferenceServerException:
            return False
        # A model that is in the repository but was not asked for (explicit model control) has no state.
        return all(model.state in ("READY", "") for model in index.models)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _is_open(listener: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(listener, timeout=RPC_TIMEOUT_S):
            return True
    except OSError:
        return False
