"""What the guard lets pass is whole: wrong requests by the thousand, checked again by a reader of its own."""

import random
import struct
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from faults.mutations import MUTATIONS
from rejection_server.guard import contract
from rejection_server.guard.refusal import Code, Refusal

EACH = 400
SIZES = dict.fromkeys(("BOOL", "UINT8", "INT8"), 1) | dict.fromkeys(("UINT16", "INT16", "FP16", "BF16"), 2)
SIZES |= dict.fromkeys(("UINT32", "INT32", "FP32"), 4) | dict.fromkeys(("UINT64", "INT64", "FP64"), 8)


def elements(raw: bytes) -> int:
    """How many texts there are in the raw contents of a BYTES tensor; struct.error if they do not fill it."""
    count = 0
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        raw = struct.unpack_from(f"<{length}s{len(raw) - 4 - length}s", raw, 4)[1]
        count += 1
    return count


def assert_whole(request: Any) -> None:
    """What Triton and its backends take for granted."""
    assert not request.parameters
    names = [tensor.name for tensor in request.inputs]
    assert len(set(names)) == len(names)
    assert all(name == "classification" for output in request.outputs for name in output.parameters)
    is_raw = len(request.raw_input_contents) > 0
    assert not is_raw or len(request.raw_input_contents) == len(request.inputs)
    for index, tensor in enumerate(request.inputs):
        assert not tensor.parameters
        assert all(0 <= size < 2**31 for size in tensor.shape)
        count = 1
        for size in tensor.shape:
            count *= size
        held = tensor.contents.ListFields()
        if not is_raw:
            ((_, values),) = held
            assert len(values) == count
        else:
            assert not held
            raw = request.raw_input_contents[index]
            found = elements(raw) if tensor.datatype == "BYTES" else len(raw) / SIZES[tensor.datatype]
            assert found == count


def checked(message: bytes) -> tuple[Refusal | None, Any]:
    """Why a message is refused, or the request that goes on."""
    try:
        return None, service_pb2.ModelInferRequest.FromString(
            b"".join(contract.checked(message, 4096, lambda _: 2048).pieces)
        )
    except Refusal as refusal:
        return refusal, None


@pytest.mark.parametrize("mutation", [mutation for mutation, _ in MUTATIONS], ids=lambda mutation: mutation.__name__)
def test_a_request_is_refused_or_whole(mutation: Any) -> None:
    for number in range(EACH):
        made = mutation(random.Random(number))
        message = made if isinstance(made, bytes) else made.SerializeToString()
        refusal, request = checked(message)
        if refusal is None:
            assert_whole(service_pb2.ModelInferRequest.FromString(request.SerializeToString()))
        else:
            assert refusal.code is Code.INVALID_ARGUMENT
            assert len(refusal.sentence) < 1000


def test_the_reader_notices_what_is_not_whole() -> None:
    request = service_pb2.ModelInferRequest()
    request.inputs.add(name="text", datatype="BYTES", shape=[2])
    for raw in (b"\1\0\0\0a", b"\2\0\0\0a", b"\1\0\0\0a\1\0\0", b"\xff\xff\xff\xffaaaaaaaa"):
        request.raw_input_contents[:] = [raw]
        with pytest.raises((AssertionError, struct.error)):
            assert_whole(request)
