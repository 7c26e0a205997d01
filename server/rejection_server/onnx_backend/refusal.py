"""How a model is refused at load: one sentence, without a traceback.

The Python backend turns what `initialize` or `auto_complete_config` raises into text by way of pybind11, which appends
the Python frames that the exception passed through (with their file names), and Triton hands that text to whoever asked
for the model. `raise ... from None` and `sys.tracebacklimit` do not help: pybind11 reads the frames itself. An
exception that C code raises straight into the backend has no frames, and `frameless` arranges exactly that.
"""

import codecs
import functools
import logging
from collections.abc import Callable
from typing import Any

INVALID_ARGUMENT = "Invalid argument"
UNSUPPORTED = "Unsupported"
UNAVAILABLE = "Unavailable"
INTERNAL = "onnxruntime"
"""Triton puts `Internal: ` in front of every refusal by a Python-based backend, so its own name says more here."""

_log = logging.getLogger(__name__)


class LoadRefusedError(Exception):
    """The model cannot be loaded as configured.

    Attributes:
        sentence: What is wrong, for the person who wrote the configuration; no path of the server.
        kind: Triton's name of the error code, which is printed in front of the sentence.
    """

    def __init__(self, sentence: str, kind: str = INVALID_ARGUMENT) -> None:
        """Refuse a model with `sentence`."""
        super().__init__(sentence)
        self.sentence = sentence
        self.kind = kind


class _Call(Exception):  # noqa: N818 - it is called like a function; its subclasses are the errors
    """Calling this class calls a function; a refusal by that function becomes an instance, which raises itself.

    `type.__call__` runs `__new__` and then, only on an instance of the class, looks up `__init__`. Here that is a
    property whose getter is a C function which raises its argument. No Python frame is active at that point.
    """

    __init__ = property(codecs.strict_errors)

    def __new__(cls, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except LoadRefusedError as refusal:
            return Exception.__new__(_error_type(refusal.kind), refusal.sentence)
        except Exception as exc:
            # A defect of this backend: the operator's log gets the traceback, the client the kind of error.
            _log.exception("unexpected error while loading a model")
            return Exception.__new__(_error_type(INTERNAL), f"unexpected {type(exc).__name__}, see the server's log")


@functools.cache
def _error_type(kind: str) -> type[Exception]:
    # pybind11 prints `NAME: MESSAGE`, so the type's name is the first word that the client reads.
    return type(kind, (_Call,), {})


def frameless(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `function` so that a `LoadRefusedError` leaves it as an exception without Python frames.

    That holds when C code calls the wrapper, as the Python backend does. Exceptions other than `LoadRefusedError` are
    logged and replaced by a sentence that names their type.
    """
    return functools.partial(_Call, function)
