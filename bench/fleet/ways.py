"""The ways that a caller has to several servers: bare gRPC to all of them, this client, or the door before them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from rejection_client import AsyncRejectionClient, ClientConfig, RejectionError
from rejection_client.protocol import infer_request

Call = Callable[[str], Awaitable[object]]
"""Classifies one text; raises one of `LOST`."""
LOST = (grpc.aio.AioRpcError, RejectionError)

Connected = Callable[[Sequence[str], float], contextlib.AbstractAsyncContextManager[Call]]
"""Opens connections of its own to addresses (HOST:PORT) for calls that end after so many seconds."""

_TURNS: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
_AGAIN = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def bare(config: Mapping[str, Any] = _TURNS) -> Connected:
    """A stub and nothing else, on one channel to all addresses, as a name with these addresses makes it."""

    @contextlib.asynccontextmanager
    async def connected(addresses: Sequence[str], timeout_s: float) -> AsyncIterator[Call]:
        # A pool of its own, or all channels of this process would share one connection.
        options = [("grpc.service_config", json.dumps(config)), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"ipv4:{','.join(addresses)}", options) as channel:
            infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

            def call(text: str) -> Awaitable[object]:
                request = infer_request("rejection", [text], outputs=("probabilities",))
                answer: Awaitable[object] = infer(request, timeout=timeout_s)
                return answer

            yield call

    return connected


@contextlib.asynccontextmanager
async def own(addresses: Sequence[str], timeout_s: float) -> AsyncIterator[Call]:
    """`rejection_client`, which chooses among the addresses by what it has under way at each."""
    async with AsyncRejectionClient(addresses, ClientConfig(timeout_s=timeout_s)) as client:
        yield client.classify


DIRECT: Mapping[str, Connected] = {
    "gRPC, round_robin": bare(),
    "gRPC, round_robin and retries": bare({**_TURNS, **_AGAIN}),
    "rejection_client": own,
}
THROUGH_DOOR: Mapping[str, Connected] = {"the door, bare gRPC": bare(), "the door, rejection_client": own}
