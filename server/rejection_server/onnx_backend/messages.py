"""Turn onnxruntime's messages into sentences that may leave the server.

They carry paths of the build machine's sources (`/onnxruntime_src/...cc:123`) and of model files.
"""

import re

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : (?P<code>\d+) : [A-Z_]+ : ")
_SOURCE = re.compile(r"\S*/\S+\.(?:cc|cpp|cu|cuh|h|hpp|inc)(?::\d+)?\s*")
# Quoted names such as '/encoder/layer.0/MatMul' are nodes of the graph, not files.
_PATH = re.compile(r"(?<!['\"\w/])(?:/[^\s/'\":,;]+)+/(?P<name>[^\s/'\":,;]+)")
_MAX_LENGTH = 500


def client_sentence(message: str, hidden: str = "", shown: str = "") -> str:
    """Return onnxruntime's `message` on one line, without paths of this or the build machine.

    Args:
        message: Text of an exception raised by onnxruntime.
        hidden: A path of this machine that may stand in the message, for example the model's file.
        shown: What to print in place of `hidden`.

    Returns:
        `onnx runtime error CODE: TEXT` as Triton's C++ backend words it, or the text alone where onnxruntime gave no
        code; at most 500 characters.
    """
    prefix = _PREFIX.match(message)
    if prefix:
        message = f"onnx runtime error {prefix['code']}: {message[prefix.end() :]}"
    if hidden:
        message = message.replace(hidden, shown)
    message = _SOURCE.sub("", message)
    message = _PATH.sub(lambda path: path["name"], message)
    message = " ".join(message.split())
    return message if len(message) <= _MAX_LENGTH else message[: _MAX_LENGTH - 3] + "..."
