"""Ask a Triton server, over gRPC, whether a language model refused.

`RejectionClient` is the client, `Prediction` what it answers, and every failure of a call is a `RejectionError`
(see `rejection_client.errors` for the tree). The command `rejection` does the same from a shell.
"""

from rejection_client._client import RejectionClient
from rejection_client._prediction import Prediction
from rejection_client.errors import (
    AccessDeniedError,
    DeadlineExceededError,
    InvalidInputError,
    ModelNotFoundError,
    OverloadedError,
    RejectionError,
    RequestCancelledError,
    ServerError,
    ServerUnavailableError,
    UnexpectedAnswerError,
)

__all__ = [
    "AccessDeniedError",
    "DeadlineExceededError",
    "InvalidInputError",
    "ModelNotFoundError",
    "OverloadedError",
    "Prediction",
    "RejectionClient",
    "RejectionError",
    "RequestCancelledError",
    "ServerError",
    "ServerUnavailableError",
    "UnexpectedAnswerError",
]
