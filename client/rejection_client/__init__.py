"""Ask a Triton server, over gRPC, whether a language model refused.

`RejectionClient` is the client, `AsyncRejectionClient` the same for asyncio, `ClientConfig` all they can be told, and
`Prediction` what they answer. Every failure of a call is a `RejectionError` (see `rejection_client.errors` for the
tree). `rejection_client.llm_guard` has scanners for LLM Guard. The command `rejection` does the same from a shell.
"""

import logging as _logging

from rejection_client._client import AsyncRejectionClient, RejectionClient
from rejection_client._config import ClientConfig, Tls
from rejection_client._prediction import DocumentPrediction, ModelInfo, Prediction, Result, Unit
from rejection_client._version import __version__
from rejection_client.errors import (
    AccessDeniedError,
    DeadlineExceededError,
    InvalidInputError,
    ModelNotFoundError,
    NoPositiveLabelError,
    OverloadedError,
    RejectionError,
    RequestCancelledError,
    ServerError,
    ServerUnavailableError,
    UnexpectedAnswerError,
)

# Whoever wants the log sets logging up; until then nothing is printed.
_logging.getLogger(__name__).addHandler(_logging.NullHandler())

__all__ = [
    "AccessDeniedError",
    "AsyncRejectionClient",
    "ClientConfig",
    "DeadlineExceededError",
    "DocumentPrediction",
    "InvalidInputError",
    "ModelInfo",
    "ModelNotFoundError",
    "NoPositiveLabelError",
    "OverloadedError",
    "Prediction",
    "RejectionClient",
    "RejectionError",
    "RequestCancelledError",
    "Result",
    "ServerError",
    "ServerUnavailableError",
    "Tls",
    "UnexpectedAnswerError",
    "Unit",
    "__version__",
]
