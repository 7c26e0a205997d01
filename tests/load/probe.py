"""What the server says of itself before it is loaded."""

from __future__ import annotations

from typing import Any

import grpc

from load.cli import Options
from load.overload import Queue
from load.sampling import Work
from load.target import TargetError
from load.users import Channels
from rejection_client import protocol

BOUND = "max_pending_requests"


def ask(url: str, options: Options) -> tuple[Work, Queue | None]:
    """What does the work, and the queue that bounds it; raises TargetError if the server cannot be asked."""
    try:
        channels = Channels(url, options)
    except (ValueError, OSError) as error:
        raise TargetError(f"{url} cannot be connected to: {error}") from error
    stub = channels.stub()

    def leaves(name: str) -> list[Any]:
        config = stub.ModelConfig(protocol.config_request(name), **channels.call).config
        steps = protocol.step_models(config)
        return [leaf for step in steps for leaf in leaves(step)] if steps else [config]

    try:
        stub.ModelInfer(protocol.infer_request(options.model, ["a first text"]), **channels.call)
        models = leaves(options.model)
    except grpc.RpcError as error:
        raise TargetError(f"{url} does not answer a first request: {error.code().name}, {error.details()}") from error
    finally:
        channels.close()
    return Work(options.model, [model.name for model in models]), _queue(models)


def _queue(models: list[Any]) -> Queue | None:
    """What bounds the requests that wait: our tokenizer's count, or the last model's queue policy."""
    for model in models:
        if BOUND in model.parameters:
            return Queue(int(model.parameters[BOUND].string_value), 0.0)
    last = models[-1]
    policy = last.dynamic_batching.default_queue_policy
    queue = Queue(policy.max_queue_size, policy.default_timeout_microseconds / 1e6)
    return queue if last.HasField("dynamic_batching") else None
