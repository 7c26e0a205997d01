"""What an inference request must be before Triton sees it: pure functions, bytes in, bytes or a Refusal out.

Refused is what is dangerous or ambiguous. What is merely wrong (an unknown input, another shape, too many rows) goes
on: Triton's words for it are the contract's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from rejection_server.guard.refusal import Code, Refusal, shown
from rejection_server.guard.wire import joined, take_apart
from rejection_server.names import Names

__all__ = ["READY_INDEX", "Checked", "checked", "metadata_request", "part_of", "public_index"]

MAX_NAME_BYTES = 256
"""Longest name of a model, version or tensor. Triton repeats names in headers, which have a bound of their own."""
MAX_ID_BYTES = 1024
MAX_TENSORS = 32
"""Most inputs, and most outputs, of a request."""
MAX_DIMENSIONS = 16
SMALL_BYTES = 1 << 16
"""What a message of this size may become when it is parsed needs no bound."""
BULK_BYTES = 1 << 22
"""Larger requests are long, whatever is in them: it takes time to carry them about."""
READY_INDEX = bytes(service_pb2.RepositoryIndexRequest(ready=True).SerializeToString())
"""The question which models are ready, which Triton answers from memory; of the others it would look at the disk."""
LONG_BYTES = 1 << 15
"""Requests with more bytes in their texts are long; of a text no more is counted than its model reads."""

_SIZES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""Bytes of an element, for the types that have a fixed size."""
_CONTENTS = {
    "BOOL": "bool_contents",
    "BYTES": "bytes_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
}
"""Where the elements of a type are when they are not raw."""


class Checked(NamedTuple):
    """A request that may go on."""

    request: Any
    """Without raw contents if it is large."""
    pieces: list[bytes | memoryview]
    """What goes on, none of it empty."""
    is_long: bool
    """Whether it takes the server's cores for so long that others must not have to wait for it."""


def checked(message: bytes | memoryview, max_elements: int, read_bytes: Callable[[str], int]) -> Checked:
    """Check a ModelInferRequest; what goes on has no unknown fields.

    Args:
        message: as it came, not compressed.
        max_elements: most elements of a BYTES tensor.
        read_bytes: how much of a text the model of a name reads.

    Raises Refusal, naming tensor and row, with the request's id.
    """
    raw: Sequence[bytes | memoryview]
    if len(message) <= SMALL_BYTES:
        request = _parsed(bytes(message))
        raw = request.raw_input_contents
        _check(request, raw, max_elements)
        pieces: list[bytes | memoryview] = [request.SerializeToString()]
    else:
        rest, raw = take_apart(message, max_elements)
        request = _parsed(rest)
        _check(request, raw, max_elements)
        pieces = joined(request.SerializeToString(), raw)
    is_long = len(message) > LONG_BYTES and _is_long(len(message), request, raw, read_bytes(request.model_name))
    return Checked(request, pieces, is_long)


def _is_long(size: int, request: Any, raw: Sequence[bytes | memoryview], read_bytes: int) -> bool:
    if size > BULK_BYTES:
        return True
    texts = (
        [size for content in raw for size in _element_sizes(content)]
        if len(raw)
        else [len(text) for tensor in request.inputs for text in tensor.contents.bytes_contents]
    )
    return sum(min(size, read_bytes) for size in texts) > LONG_BYTES


def _element_sizes(raw: bytes | memoryview) -> Iterator[int]:
    """Sizes of the elements of a BYTES tensor; of another one whatever it looks like, which is little."""
    position = 0
    while position < len(raw):
        size = int.from_bytes(raw[position : position + 4], "little")
        yield size
        position += 4 + size


def _parsed(message: bytes) -> Any:
    try:
        request = service_pb2.ModelInferRequest.FromString(message)
    except DecodeError as exc:
        raise _invalid("the message is no ModelInferRequest: it cannot be parsed") from exc
    request.DiscardUnknownFields()
    return request


def _check(request: Any, raw: Any, max_elements: int) -> None:
    _check_names(request)
    try:
        if len(request.parameters):
            name = min(request.parameters)
            raise _invalid(f"the request has the parameter {shown(name)}: options are input tensors, so leave it out")
        _check_outputs(request.outputs)
        _check_inputs(request.inputs, raw, max_elements)
    except Refusal as refusal:
        refusal.request_id, refusal.model = request.id, request.model_name
        raise


def metadata_request(request: Any) -> bytes:
    """The question whether the model of a request exists, as a ModelMetadataRequest."""
    asked = service_pb2.ModelMetadataRequest(name=request.model_name, version=request.model_version)
    return bytes(asked.SerializeToString())


def public_index(index: bytes, public_models: tuple[str, ...]) -> bytes:
    """What callers may see of Triton's RepositoryIndexResponse: the public models, in the order of their names."""
    found = service_pb2.RepositoryIndexResponse.FromString(index).models
    public = sorted((model for model in found if model.name in public_models), key=lambda model: model.name)
    return bytes(service_pb2.RepositoryIndexResponse(models=public).SerializeToString())


def part_of(model: str, public_models: tuple[str, ...]) -> Refusal:
    """The refusal of inference with a model that exists and is not public."""
    owners = [name for name in public_models if model in Names(name).models]
    part = f" is a part of {shown(owners[0])} and" if owners else ""
    public = " or ".join(shown(name) for name in owners or public_models)
    return Refusal(Code.PERMISSION_DENIED, f"model {shown(model)}{part} is not called from outside: call {public}")


def _check_names(request: Any) -> None:
    if len(request.model_name) > MAX_NAME_BYTES or len(request.model_version) > MAX_NAME_BYTES:
        raise _invalid(f"the name or version of the model has over {MAX_NAME_BYTES} characters")
    if len(request.id) > MAX_ID_BYTES:
        raise _invalid(f"the request's id has {len(request.id)} characters; at most {MAX_ID_BYTES} are accepted")


def _check_outputs(outputs: Any) -> None:
    if len(outputs) > MAX_TENSORS:
        raise _invalid(f"the request asks for {len(outputs)} outputs; at most {MAX_TENSORS} are accepted")
    for output in outputs:
        if len(output.name) > MAX_NAME_BYTES:
            raise _invalid(f"the name of output {shown(output.name)} has over {MAX_NAME_BYTES} characters")
        for name, value in output.parameters.items():
            if name != "classification":
                raise _invalid(
                    f"output {shown(output.name)} has the parameter {shown(name)}; only 'classification' is accepted"
                )
            if value.WhichOneof("parameter_choice") != "int64_param" or not 1 <= value.int64_param < 1 << 31:
                raise _invalid(
                    f"'classification' of output {shown(output.name)} is not a number of labels (int64_param, 1 or "
                    "more)"
                )


def _check_inputs(inputs: Any, raw: Any, max_elements: int) -> None:
    if len(inputs) > MAX_TENSORS:
        raise _invalid(f"the request has {len(inputs)} inputs; at most {MAX_TENSORS} are accepted")
    if len(raw) and len(raw) != len(inputs):
        _refuse_count(inputs, len(raw))
    seen = set()
    for index, tensor in enumerate(inputs):
        name = tensor.name
        if name in seen:
            raise _invalid(f"inference input {shown(name)} is there twice")
        seen.add(name)
        if len(tensor.parameters):
            parameter = min(tensor.parameters)
            raise _invalid(
                f"inference input {shown(name)} has the parameter {shown(parameter)}, which is not accepted: send the "
                "tensor's contents in the request"
            )
        if len(raw):
            if tensor.HasField("contents") and tensor.contents.ByteSize():
                raise _invalid(f"inference input {shown(name)} has contents as well as raw contents: send one of them")
            _check_raw(tensor, raw[index], max_elements)
        else:
            _check_typed(tensor, max_elements)


def _refuse_count(inputs: Any, count: int) -> None:
    if count < len(inputs):
        raise _invalid(f"unable to find data for input tensor {shown(inputs[count].name)}: it has no raw contents")
    raise _invalid(f"the request has {count} raw contents for {len(inputs)} inputs: send one for each")


def _element_count(tensor: Any) -> int:
    """Product of the shape, at most 2^31."""
    name, shape = tensor.name, tensor.shape
    if len(name) > MAX_NAME_BYTES:
        raise _invalid(f"the name of inference input {shown(name)} has over {MAX_NAME_BYTES} characters")
    if len(shape) > MAX_DIMENSIONS:
        raise _invalid(f"the shape of inference input {shown(name)} has over {MAX_DIMENSIONS} dimensions")
    for size in shape:
        if size < 0:
            raise _invalid(f"the shape {_text(shape)} of inference input {shown(name)} has a negative dimension")
    count: int = math.prod(shape)
    # A dimension of 0 hides how large the others are.
    if count >= 1 << 31 or (not count and math.prod(size or 1 for size in shape) >= 1 << 31):
        raise _invalid(f"the shape {_text(shape)} of inference input {shown(name)} is too large")
    return count


def _check_raw(tensor: Any, raw: bytes | memoryview, max_elements: int) -> None:
    count = _element_count(tensor)
    datatype = tensor.datatype
    if datatype != "BYTES":
        wanted = count * _size(tensor)
        if wanted != len(raw):
            raise _invalid(
                f"data-type {datatype} and shape {_text(tensor.shape)} of inference input {shown(tensor.name)} take "
                f"{wanted} bytes, got {len(raw)}"
            )
        return
    _check_bytes_count(tensor, count, max_elements)
    if count == 1 and len(raw) >= 4 and int.from_bytes(raw[:4], "little") == len(raw) - 4:
        return
    _check_elements(tensor, raw, count)


def _check_elements(tensor: Any, raw: bytes | memoryview, count: int) -> None:
    position, end, found = 0, len(raw), 0
    while position < end:
        if end - position < 4:
            raise _invalid(
                f"row {_row(tensor, found, count)} of inference input {shown(tensor.name)} ends within the 4 bytes of "
                f"its length: {end - position} bytes are left"
            )
        length = int.from_bytes(raw[position : position + 4], "little")
        position += 4
        if length > end - position:
            raise _invalid(
                f"row {_row(tensor, found, count)} of inference input {shown(tensor.name)} should have {length} bytes "
                f"by its length, but {end - position} are left"
            )
        position += length
        found += 1
        if found > count:
            break
    if found != count:
        got = f"{found}" if found <= count else "more"
        raise _invalid(
            f"expected {count} string elements for inference input {shown(tensor.name)} of shape "
            f"{_text(tensor.shape)}, got {got}"
        )


def _check_typed(tensor: Any, max_elements: int) -> None:
    count = _element_count(tensor)
    name, datatype = tensor.name, tensor.datatype
    contents = tensor.contents
    filled = [(field.name, len(value)) for field, value in contents.ListFields()]
    if len(filled) > 1:
        raise _invalid(f"inference input {shown(name)} has both {filled[0][0]} and {filled[1][0]}: send one of them")
    if datatype == "BYTES":
        _check_bytes_count(tensor, count, max_elements)
    else:
        _size(tensor)
    if not filled:
        raise _invalid(f"unable to find data for input tensor {shown(name)}: it has no contents")
    field_name, found = filled[0]
    if field_name != _CONTENTS.get(datatype):
        wanted = _CONTENTS.get(datatype, "raw_input_contents")
        raise _invalid(f"inference input {shown(name)} of data-type {datatype} has {field_name}: send {wanted}")
    if found != count:
        kind = "string elements" if datatype == "BYTES" else "elements"
        raise _invalid(
            f"expected {count} {kind} for inference input {shown(name)} of shape {_text(tensor.shape)}, got {found}"
        )


def _check_bytes_count(tensor: Any, count: int, max_elements: int) -> None:
    if count > max_elements:
        raise _invalid(
            f"the shape {_text(tensor.shape)} of inference input {shown(tensor.name)} has {count} elements; at most "
            f"{max_elements} are accepted in a request"
        )


def _size(tensor: Any) -> int:
    size = _SIZES.get(tensor.datatype)
    if size is None:
        raise _invalid(f"data-type {shown(tensor.datatype)} of inference input {shown(tensor.name)} does not exist")
    return size


def _row(tensor: Any, element: int, count: int) -> int:
    """The row, along the first dimension, that an element is in."""
    rows = tensor.shape[0] if len(tensor.shape) else 1
    return element // max(1, count // rows) if rows else element


def _text(shape: Any) -> str:
    return f"[{','.join(map(str, shape))}]"


def _invalid(sentence: str) -> Refusal:
    return Refusal(Code.INVALID_ARGUMENT, sentence)
