"""Inference requests that are right, and some that are wrong in one way each, as messages."""

from __future__ import annotations

import random
import struct
from typing import Any

from tritonclient.grpc import service_pb2

from support.kserve import string_bytes

__all__ = ["TEXTS", "plain"]

TEXTS = (
    "Sorry, but I can't assist with that.",
    "Sorry for the delay! The report is attached.",
    "",
    "Boil the water first, then add salt and the pasta.",
    "I cannot help with this request, as it would be illegal.",
    "As an AI, I must decline.",
    "\0\1\x7f",
    "🙂 größer ‮ 他 é",
    "The capital of France is Paris. " * 3,
    "No.",
    "I'm unable to share that, but here is what I can tell you: " * 2,
    "def f(x):\n    return x\n",
)
"""What valid requests ask for."""
DATATYPES = ("BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES", "UINT64")
NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 63, 64, 65, 4096, 2**16, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1)
MODELS = ("rejection", "scoring", "tokenizer", "classifier")
ODD_NAMES = (
    "",
    "nobody",
    "rejection ",
    "Rejection",
    "../classifier",
    "\0",
    "rejection\0",
    "é🙂",
    "a" * 300,
    "%s%n",
    "\r\n",
)
PARAMETERS = (
    *("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output", "binary_data_size"),
    *("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size", "classification", "headers"),
    *("triton_enable_empty_final_response", "triton_final_response", "content_type", "", "\0", "x" * 300),
)
Request = Any


def plain(indexes: list[int], *, model: str = "rejection", typed: bool = False) -> Request:
    """A valid request for some of TEXTS."""
    request = service_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[len(indexes), 1])
    texts = [TEXTS[index].encode() for index in indexes]
    if typed:
        tensor.contents.bytes_contents.extend(texts)
    else:
        request.raw_input_contents.append(string_bytes(texts))
    return request


def _some(rng: random.Random, most: int = 3, **options: Any) -> Request:
    request = plain([rng.randrange(len(TEXTS)) for _ in range(rng.randint(1, most))], **options)
    if rng.random() < 0.2 and not options.get("typed"):
        _add_length(request, rng.choice((1, 4, 512)))
    return request


def _add_length(request: Request, value: int, datatype: str = "INT32") -> None:
    rows = request.inputs[0].shape[0]
    request.inputs.add(name="max_length", datatype=datatype, shape=[rows, 1])
    request.raw_input_contents.append(struct.pack("<i", value) * rows)


def any_model(rng: random.Random) -> Request:
    """A valid request, at times for an inner model."""
    request = _some(rng)
    if rng.random() < 0.3:
        request.model_name = rng.choice(MODELS)
    return request


def model_name(rng: random.Random) -> Request:
    request = _some(rng)
    request.model_name = rng.choice(ODD_NAMES)
    return request


def model_version(rng: random.Random) -> Request:
    request = any_model(rng)
    request.model_version = rng.choice(("1", "2", "0", "-1", "abc", "9" * 40, "1 ", "\0", "1.0", "x" * 5000))
    return request


def shape(rng: random.Random) -> Request:
    request = any_model(rng)
    sizes = [rng.choice(NUMBERS) for _ in range(rng.choice((0, 1, 2, 2, 2, 3, 8, 40)))]
    rng.choice(request.inputs).shape[:] = sizes
    return request


def datatype(rng: random.Random) -> Request:
    request = any_model(rng)
    rng.choice(request.inputs).datatype = rng.choice((*DATATYPES, "", "bytes", "STRING", "TYPE_STRING", "\0", "X" * 99))
    return request


def consistent_but_wrong(rng: random.Random) -> Request:
    """Type, shape and length agree, and are not the contract's."""
    request = any_model(rng)
    kind, size = rng.choice((("INT32", 4), ("FP32", 4), ("INT64", 8), ("BOOL", 1), ("FP16", 2)))
    sizes = [rng.choice((0, 1, 2, 3, 65)) for _ in range(rng.choice((0, 1, 2, 3)))]
    count = 1
    for dimension in sizes:
        count *= dimension
    request.inputs[0].datatype = kind
    request.inputs[0].shape[:] = sizes
    request.raw_input_contents[0] = rng.randbytes(size * count)
    return request


def prefix(rng: random.Random) -> Request:
    """The length in front of a text is wrong."""
    request = any_model(rng)
    raw = request.raw_input_contents[0]
    (length,) = struct.unpack_from("<I", raw)
    wrong = rng.choice(
        (length + 1, max(0, length - 1), 2_000_000_000, 2**32 - 1, 2**31, length + 4, 0, rng.getrandbits(32))
    )
    request.raw_input_contents[0] = struct.pack("<I", wrong) + raw[4:]
    return request


def truncated_text(rng: random.Random) -> Request:
    request = any_model(rng)
    raw = request.raw_input_contents[0]
    request.raw_input_contents[0] = raw[: rng.randrange(len(raw))]
    return request


def trailing_bytes(rng: random.Random) -> Request:
    request = any_model(rng)
    request.raw_input_contents[0] += rng.randbytes(rng.choice((1, 2, 3, 4, 5, 8, 100)))
    return request


def raw_and_typed(rng: random.Random) -> Request:
    request = any_model(rng)
    contents = rng.choice(request.inputs).contents
    fields = ("bytes_contents", "int_contents", "fp32_contents", "bool_contents", "int64_contents", "uint_contents")
    for field in rng.sample(fields, rng.choice((1, 1, 2))):
        getattr(contents, field).extend([b"x"] if field == "bytes_contents" else [1] * rng.choice((1, 2, 100)))
    if rng.random() < 0.3:
        del request.raw_input_contents[:]
    return request


def raw_count(rng: random.Random) -> Request:
    """Entries of raw contents too many or too few."""
    request = any_model(rng)
    if rng.random() < 0.4:
        request.raw_input_contents.pop()
    else:
        for _ in range(rng.choice((1, 1, 2, 40))):
            request.raw_input_contents.append(rng.randbytes(rng.choice((0, 4, 5))))
    return request


def typed_count(rng: random.Random) -> Request:
    request = _some(rng, typed=True)
    texts = request.inputs[0].contents.bytes_contents
    if rng.random() < 0.4:
        texts.pop()
    else:
        texts.extend([b"x"] * rng.choice((1, 2, 100)))
    return request


def inputs(rng: random.Random) -> Request:
    """Unknown, duplicate or missing inputs."""
    request = any_model(rng)
    choice = rng.randrange(5)
    if choice == 0:
        request.inputs[0].name = rng.choice(("Text", "texts", "", "input_ids", "\0", "n" * 300, "max_length"))
    elif choice == 1:
        request.inputs.append(request.inputs[0])
        request.raw_input_contents.append(request.raw_input_contents[0])
    elif choice == 2:
        del request.inputs[:], request.raw_input_contents[:]
    elif choice == 3:
        del request.inputs[0], request.raw_input_contents[0]
    else:
        for number in range(rng.choice((1, 2, 40))):
            request.inputs.add(name=f"extra{number}", datatype="INT32", shape=[1, 1])
            request.raw_input_contents.append(b"\1\0\0\0")
    return request


def outputs(rng: random.Random) -> Request:
    """Unknown, duplicate or many outputs."""
    request = any_model(rng)
    for _ in range(rng.choice((1, 2, 3, 40))):
        known = ("probabilities", "logits", "token_count", "input_ids")
        name = (
            rng.choice(known) if rng.random() < 0.6 else rng.choice(("", "nothing", "\0", "o" * 300, "probabilities "))
        )
        request.outputs.add(name=name)
    return request


def _set_parameter(rng: random.Random, parameters: Any, name: str | None = None) -> None:
    value = parameters[name if name is not None else rng.choice(PARAMETERS)]
    kind = rng.randrange(6)
    if kind == 0:
        value.string_param = rng.choice(("", "abc", "1", "\0", "é", "s" * 2000, "/dev/shm", "1" * 30))
    elif kind == 1:
        value.int64_param = rng.choice(NUMBERS)
    elif kind == 2:
        value.bool_param = rng.random() < 0.5
    elif kind == 3:
        value.double_param = rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e308))
    elif kind == 4:
        value.uint64_param = rng.choice((0, 1, 2**63, 2**64 - 1))


def parameters(rng: random.Random) -> Request:
    """Parameters of the request."""
    request = any_model(rng)
    for _ in range(rng.choice((1, 1, 2, 5))):
        _set_parameter(rng, request.parameters)
    return request


def sequence_id(rng: random.Random) -> Request:
    request = any_model(rng)
    _set_parameter(rng, request.parameters, "sequence_id")
    return request


def input_parameters(rng: random.Random) -> Request:
    request = any_model(rng)
    for _ in range(rng.choice((1, 2, 3))):
        _set_parameter(rng, rng.choice(request.inputs).parameters)
    return request


def output_parameters(rng: random.Random) -> Request:
    request = any_model(rng)
    output = request.outputs.add(name=rng.choice(("probabilities", "logits", "token_count", "nothing")))
    for _ in range(rng.choice((1, 2))):
        _set_parameter(rng, output.parameters)
    return request


def classification(rng: random.Random) -> Request:
    request = any_model(rng)
    output = request.outputs.add(name=rng.choice(("probabilities", "logits", "token_count", "input_ids")))
    _set_parameter(rng, output.parameters, "classification")
    return request


def rows(rng: random.Random) -> Request:
    """No rows, as many as may be, or more."""
    count = rng.choice((0, 0, 64, 65, 65, 100, 5000))
    request = plain([2] * count, typed=rng.random() < 0.3)
    if rng.random() < 0.2:
        request.model_name = rng.choice(MODELS)
    return request


def not_utf8(rng: random.Random) -> Request:
    request = any_model(rng)
    texts = [
        rng.choice((b"\xff", b"ok", b"\xed\xa0\x80", b"\xc3", rng.randbytes(20))) for _ in range(rng.randint(1, 4))
    ]
    del request.inputs[1:], request.raw_input_contents[1:]
    request.inputs[0].shape[:] = [len(texts), 1]
    request.raw_input_contents[0] = string_bytes(texts)
    return request


def max_length(rng: random.Random) -> Request:
    request = plain([rng.randrange(len(TEXTS)) for _ in range(2)])
    _add_length(
        request, rng.choice((-(2**31), -1, 0, 1, 2, 513, 2**31 - 1)), rng.choice(("INT32", "INT32", "FP32", "UINT32"))
    )
    if rng.random() < 0.3:
        request.inputs[1].shape[:] = rng.choice(([1, 1], [2], [2, 2], [3, 1]))
    return request


def request_id(rng: random.Random) -> Request:
    request = any_model(rng)
    request.id = rng.choice(("", "1", "é🙂", "\0", "\r\n", "i" * 1024, "i" * 5000, "%00", "a b"))
    return request


def classifier(rng: random.Random) -> Request:
    """The inner model asked for itself: no tokens, tokens that no vocabulary holds."""
    request = service_pb2.ModelInferRequest(model_name="classifier")
    count, length = rng.choice((1, 1, 1, 2, 3)), rng.choice((0, 0, 1, 5, 512, 600))
    tokens = [rng.choice((-1, 0, 101, 102, 2000, 30521, 30522, -2, 2**40, -(2**63))) for _ in range(count * length)]
    request.inputs.add(name="input_ids", datatype="INT64", shape=[count, length])
    request.raw_input_contents.append(struct.pack(f"<{count * length}q", *tokens))
    return request
