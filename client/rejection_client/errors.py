"""What can go wrong in a call, as one tree of exceptions.

    RejectionError
    ├── InvalidInputError         a text or an option is not acceptable; `row` says which text, where known
    ├── ModelNotFoundError        the server runs but does not know the model
    ├── AccessDeniedError         the server, or a gateway before it, wants other credentials
    ├── ServerUnavailableError    no connection to the server, it broke during the call, or the server is stopping
    ├── OverloadedError           the server answered, and refused the work because its queue is full
    ├── DeadlineExceededError     no answer within the client's `timeout_s`
    ├── RequestCancelledError     the client was closed during the call, or a proxy gave the call up
    ├── ServerError               the server failed at the request; the fault is not in the input
    ├── NoPositiveLabelError      whether a text is a rejection was asked of a model without a label that says so
    └── UnexpectedAnswerError     the answer is not what this client understands: another kind of server or model

Each message says what happened and what to do next. The gRPC error behind it is the exception's `__cause__`.
Mistakes in using the client itself (a text that is not a `str`, a timeout of zero, a call after `close()`) raise
Python's own `TypeError`, `ValueError` and `RuntimeError`.
"""

import re

__all__ = [
    "AccessDeniedError",
    "DeadlineExceededError",
    "InvalidInputError",
    "ModelNotFoundError",
    "NoPositiveLabelError",
    "OverloadedError",
    "RejectionError",
    "RequestCancelledError",
    "ServerError",
    "ServerUnavailableError",
    "UnexpectedAnswerError",
]


ROW = re.compile(r"\brow (\d+)\b")
"""How the server names a row, as in `text row 3: not valid UTF-8`; the first match counts."""


class RejectionError(Exception):
    """A call failed; catch this to catch every failure of a call."""


class InvalidInputError(RejectionError):
    """A text or an option is not acceptable, and sending it again will not help."""

    row: int | None
    """Index of the offending text in the sequence given to `classify`; None where the server names none."""

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class ModelNotFoundError(RejectionError):
    """The server runs but does not know the model: a wrong name."""


class AccessDeniedError(RejectionError):
    """The server, or a gateway before it, refuses the caller's credentials."""


class ServerUnavailableError(RejectionError):
    """There is no connection to the server, it broke during the call, or the server is stopping.

    The work may or may not have been done.
    """


class OverloadedError(RejectionError):
    """The server answered, and refused the work because its queue is full; the texts were not classified."""


class DeadlineExceededError(RejectionError):
    """No answer came within the client's `timeout_s`."""


class RequestCancelledError(RejectionError):
    """The call was given up: the client was closed by another thread, or a proxy ended the call."""


class ServerError(RejectionError):
    """The server failed at the request; the fault is not in the input."""


class NoPositiveLabelError(RejectionError):
    """No label of the model is known to mean a rejection, or it has not the one that was named."""


class UnexpectedAnswerError(RejectionError):
    """The answer is not what this client understands: the address or the model name leads to something else."""
