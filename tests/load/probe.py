"""What the server says of itself before it is loaded."""

from __future__ import annotations

from typing import Any

import grpc

from load.result import Queue
from load.rpc import Channels, Connection
from load.target import TargetError
from rejection_client import protocol

BOUND = "max_pending_requests"


def ask(connection: Connection) -> tuple[list[str], Queue | None]:
    """The models that do the work, and the queue of the last; raises TargetError if the server cannot be asked."""
    channels = Channels(connection)
    stub = channels.plain_stub()
    call = {"timeout": connection.timeout_s, "metadata": channels.metadata}

    def leaves(name: str) -> list[Any]:
        config = stub.ModelConfig(protocol.config_request(name), **call).config
        steps = protocol.step_models(config)
        return [leaf for step in steps for leaf in leaves(step)] if steps else [config]

    try:
        stub.ModelInfer(protocol.infer_request(connection.model, ["a first text"]), **call)
        models = leaves(connection.model)
    except grpc.RpcError as error:
        raise TargetError(
            f"{connection.url} does not answer a first request: {error.code().name}, {error.details()}"
        ) from error
    finally:
        channels.close()
    return [model.name for model in models], _queue(models)


def _queue(models: list[Any]) -> Queue | None:
    """What bounds the requests that wait: our tokenizer's count, or the last model's queue policy."""
    for model in models:
        if BOUND in model.parameters:
            return Queue(int(model.parameters[BOUND].string_value), 0.0)
    last = models[-1]
    policy = last.dynamic_batching.default_queue_policy
    queue = Queue(policy.max_queue_size, policy.default_timeout_microseconds / 1e6)
    return queue if last.HasField("dynamic_batching") else None
