"""Refusals without frames, and messages without paths."""

import ctypes
import logging
from collections.abc import Callable
from typing import Any, Never

import pytest

from rejection_server.onnx_backend.messages import client_sentence
from rejection_server.onnx_backend.refusal import LoadRefusedError, frameless


def call_from_c(function: Callable[..., Any], *args: Any) -> Any:
    """Call as the Python backend does, from C; return the result, or the error as it arrives there."""
    api = ctypes.pythonapi
    api.PyErr_Fetch.argtypes = [ctypes.POINTER(ctypes.c_void_p)] * 3
    api.PyErr_Fetch.restype = None
    # Through CDLL, ctypes itself does not look at the pending exception.
    call = ctypes.PyDLL(None).PyObject_CallObject
    call.argtypes, call.restype = [ctypes.py_object, ctypes.py_object], ctypes.py_object
    try:
        return call(function, args)
    except Exception as exc:
        return exc


def frames_below(error: BaseException) -> int:
    """Count the frames of the traceback below this file's."""
    count, traceback = 0, error.__traceback__
    while traceback is not None:
        count += traceback.tb_frame.f_code.co_filename != __file__
        traceback = traceback.tb_next
    return count


def refuse(*_args: object) -> Never:
    raise LoadRefusedError("the sentence", "Unsupported")


def fail(*_args: object) -> Never:
    raise KeyError("/a/path")


def test_a_refusal_has_no_frames_of_the_backend() -> None:
    error = call_from_c(frameless(refuse), 1)
    assert str(error) == "the sentence"
    assert type(error).__name__ == "Unsupported"
    assert error.__traceback__.tb_next is None
    assert frames_below(error) == 0
    assert error.__cause__ is None


def test_without_the_wrapper_there_would_be_a_frame() -> None:
    assert call_from_c(refuse, 1).__traceback__.tb_next is not None


def test_a_defect_is_logged_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        error = call_from_c(frameless(fail), 1)
    assert str(error) == "unexpected KeyError, see the server's log"
    assert type(error).__name__ == "onnxruntime"
    assert "Traceback" in caplog.text


def test_results_pass_through() -> None:
    assert call_from_c(frameless(lambda a, b: a + b), 1, 2) == 3
    assert call_from_c(frameless(lambda: None)) is None


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from /srv/models/X/1/model.onnx failed:Protobuf "
            "parsing failed.",
            "onnx runtime error 7: Load model from X/1/model.onnx failed:Protobuf parsing failed.",
        ),
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running Gather node. "
            "Name:'/lookup/Gather' Status Message: /onnxruntime_src/onnxruntime/core/providers/cpu/tensor/"
            "gather.cc:120 onnxruntime::GatherCopyData indices element out of data bounds, idx=9\n must be within "
            "[-4,3]\n",
            "onnx runtime error 2: Non-zero status code returned while running Gather node. Name:'/lookup/Gather' "
            "Status Message: onnxruntime::GatherCopyData indices element out of data bounds, idx=9 must be within "
            "[-4,3]",
        ),
        ("cannot open /opt/lib/custom_ops.so: no such file", "cannot open custom_ops.so: no such file"),
        ("Required inputs (['x']) are missing", "Required inputs (['x']) are missing"),
    ],
)
def test_messages_lose_their_paths(message: str, sentence: str) -> None:
    assert client_sentence(message, "/srv/models/X/1/model.onnx", "X/1/model.onnx") == sentence


def test_long_messages_are_cut() -> None:
    assert len(client_sentence("x" * 5000)) == 500
