"""What the guard lets through to Triton: requests as bytes, without any server."""

import random
import struct
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from rejection_server.guard.contract import checked, part_of
from rejection_server.guard.refusal import Code, Refusal

MAX_ELEMENTS = 4096
FIXED = {"BOOL": 1, "INT8": 1, "UINT16": 2, "FP16": 2, "INT32": 4, "FP32": 4, "INT64": 8, "FP64": 8}


def elements(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def request(raw: bytes = elements(b"No."), shape: tuple[int, ...] = (1, 1), datatype: str = "BYTES") -> Any:
    message = service_pb2.ModelInferRequest(model_name="rejection")
    message.inputs.add(name="text", datatype=datatype, shape=shape)
    message.raw_input_contents.append(raw)
    return message


def read_bytes(model: str) -> int:
    return {"brief": 512, "lengthy": 8192}.get(model, 2048)


def check(message: Any) -> Any:
    return passed_on(message.SerializeToString())


def passed_on(message: bytes) -> Any:
    return service_pb2.ModelInferRequest.FromString(b"".join(checked(message, MAX_ELEMENTS, read_bytes).pieces))


def refused(message: Any) -> str:
    with pytest.raises(Refusal) as caught:
        check(message)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "\n" not in caught.value.sentence
    return caught.value.sentence


@pytest.mark.parametrize(
    ("texts", "shape"),
    [
        ((b"a",), (1, 1)),
        ((b"",), (1, 1)),
        ((b"a", b"", b"ccc"), (3, 1)),
        ((), (0, 1)),
        ((b"\xff",), (1,)),
        ((b"a", b"b"), (1, 2)),
    ],
)
def test_well_formed_requests_go_on_as_they_are(texts: tuple[bytes, ...], shape: tuple[int, ...]) -> None:
    message = request(elements(*texts), shape)
    message.id = "7"
    message.outputs.add(name="probabilities").parameters["classification"].int64_param = 2
    assert check(message) == message


@pytest.mark.parametrize("datatype", FIXED)
def test_types_of_fixed_size_are_counted(datatype: str) -> None:
    size = FIXED[datatype]
    assert check(request(bytes(6 * size), (2, 3), datatype))
    for wrong in (0, 6 * size - 1, 6 * size + 1, 7 * size):
        said = refused(request(bytes(wrong), (2, 3), datatype))
        assert said == (
            f"data-type {datatype} and shape [2,3] of inference input 'text' take {6 * size} bytes, got {wrong}"
        )


@pytest.mark.parametrize(
    ("raw", "shape", "says"),
    [
        (elements(b"a") + b"\0", (1, 1), "row 1 of inference input 'text' ends within the 4 bytes of its length"),
        (elements(b"a", b"b")[:-1], (2, 1), "row 1 of inference input 'text' should have 1 bytes by its length, but 0"),
        (struct.pack("<I", 2_000_000_000) + b"abc", (1, 1), "row 0 of inference input 'text' should have 2000000000"),
        (elements(b"a"), (2, 1), "expected 2 string elements for inference input 'text' of shape [2,1], got 1"),
        (
            elements(b"a", b"b"),
            (1, 1),
            "expected 1 string elements for inference input 'text' of shape [1,1], got more",
        ),
        (elements(b"a"), (0, 1), "expected 0 string elements"),
        (b"", (1, 1), "expected 1 string elements"),
        (elements(b"a", b"b", b"c") + struct.pack("<I", 9), (2, 2), "row 1 of inference input 'text' should have 9"),
        (elements(b"a"), (-1, 1), "the shape [-1,1] of inference input 'text' has a negative dimension"),
        (elements(b"a"), (1 << 32, 1 << 32), "is too large"),
        (b"", (0, 1 << 40), "is too large"),
        (b"", (5000, 1), "has 5000 elements; at most 4096 are accepted in a request"),
    ],
)
def test_wrong_lengths_name_the_tensor_and_the_row(raw: bytes, shape: tuple[int, ...], says: str) -> None:
    assert says in refused(request(raw, shape))


def twice(message: Any) -> None:
    message.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    message.raw_input_contents.append(elements(b"a"))


def extra_raw(message: Any) -> None:
    message.raw_input_contents.append(b"")


def missing_raw(message: Any) -> None:
    message.inputs.add(name="max_length", datatype="INT32", shape=[1, 1])


def no_data(message: Any) -> None:
    del message.raw_input_contents[:]


def mixed(message: Any) -> None:
    message.inputs[0].contents.bytes_contents.append(b"a")


def two_kinds(message: Any) -> None:
    mixed(message)
    no_data(message)
    message.inputs[0].contents.int_contents.append(1)


def other_kind(message: Any) -> None:
    no_data(message)
    message.inputs[0].contents.fp32_contents.append(1)


def too_few_typed(message: Any) -> None:
    no_data(message)
    message.inputs[0].shape[0] = 2
    message.inputs[0].contents.bytes_contents.append(b"a")


def sequence(message: Any) -> None:
    message.parameters["sequence_id"].string_param = ""


def input_memory(message: Any) -> None:
    message.inputs[0].parameters["shared_memory_region"].string_param = "triton"


def output_memory(message: Any) -> None:
    message.outputs.add(name="logits").parameters["shared_memory_region"].string_param = "triton"


def no_number_of_labels(message: Any) -> None:
    message.outputs.add(name="logits").parameters["classification"].string_param = "2"


def unknown_type(message: Any) -> None:
    message.inputs[0].datatype = "TEXT"


def long_name(message: Any) -> None:
    message.model_name = "m" * 1000


def many_inputs(message: Any) -> None:
    for number in range(40):
        message.inputs.add(name=str(number), datatype="BYTES", shape=[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (twice, "inference input 'text' is there twice"),
        (extra_raw, "2 raw contents for 1 inputs"),
        (missing_raw, "unable to find data for input tensor 'max_length'"),
        (no_data, "unable to find data for input tensor 'text'"),
        (mixed, "inference input 'text' has contents as well as raw contents"),
        (two_kinds, "inference input 'text' has both int_contents and bytes_contents"),
        (other_kind, "inference input 'text' of data-type BYTES has fp32_contents: send bytes_contents"),
        (too_few_typed, "expected 2 string elements for inference input 'text' of shape [2,1], got 1"),
        (sequence, "the request has the parameter 'sequence_id': options are input tensors"),
        (input_memory, "inference input 'text' has the parameter 'shared_memory_region'"),
        (output_memory, "output 'logits' has the parameter 'shared_memory_region'"),
        (no_number_of_labels, "'classification' of output 'logits' is not a number of labels"),
        (unknown_type, "data-type 'TEXT' of inference input 'text' does not exist"),
        (long_name, "the name or version of the model has over 256 characters"),
        (many_inputs, "at most 32 are accepted"),
    ],
)
def test_what_is_dangerous_or_ambiguous_is_refused(change: Any, says: str) -> None:
    message = request()
    change(message)
    assert says in refused(message)


def test_typed_contents_go_on() -> None:
    message = service_pb2.ModelInferRequest(model_name="rejection")
    message.inputs.add(name="text", datatype="BYTES", shape=[2, 1]).contents.bytes_contents.extend([b"a", b""])
    message.inputs.add(name="max_length", datatype="INT32", shape=[2, 1]).contents.int_contents.extend([8, 0])
    assert check(message) == message


def test_unknown_fields_stay_behind() -> None:
    plain = request().SerializeToString()
    large = request(elements(bytes(100_000))).SerializeToString()
    for message in (plain, large):
        assert b"".join(checked(message + b"\xfa\x07\x03abc", MAX_ELEMENTS, read_bytes).pieces) == message


def test_sixty_four_texts_of_a_mebibyte_go_on_without_a_copy() -> None:
    message = request(elements(*[bytes(1 << 20)] * 64), (64, 1))
    message.inputs.add(name="max_length", datatype="INT32", shape=[64, 1])
    message.raw_input_contents.append(bytes(256))
    arrived = memoryview(bytearray(message.SerializeToString()))
    pieces = checked(arrived, MAX_ELEMENTS, read_bytes).pieces
    assert sum(isinstance(piece, memoryview) and piece.obj is arrived.obj for piece in pieces) == 2
    assert b"".join(pieces) == arrived


def test_large_requests_are_checked_like_small_ones() -> None:
    texts = [bytes(50_000), b"", bytes(50_000)]
    message = request(elements(*texts), (3, 1))
    assert check(message) == message
    assert refused(request(elements(*texts)[:-1], (3, 1))).startswith(
        "row 2 of inference input 'text' should have 50000"
    )
    assert refused(request(elements(*texts), (2, 1))).startswith("expected 2 string elements")
    message.raw_input_contents.append(b"")
    assert refused(message) == "the request has 2 raw contents for 1 inputs: send one for each"


def test_typed_texts_may_be_large_but_not_as_large() -> None:
    message = service_pb2.ModelInferRequest(model_name="rejection")
    contents = message.inputs.add(name="text", datatype="BYTES", shape=[3, 1]).contents
    contents.bytes_contents.extend([bytes(1 << 20)] * 3)
    assert check(message) == message
    message.inputs[0].shape[0] = 4
    contents.bytes_contents.append(bytes(1 << 20))
    assert refused(message) == (
        "the request has over 4194304 bytes that are not in raw_input_contents: send the texts there"
    )


@pytest.mark.parametrize(
    ("texts", "model", "is_long"),
    [
        ([b"a" * 2048] * 16, "rejection", False),
        ([b"a" * 2048] * 17, "rejection", True),
        ([b"a" * 2048] * 64, "brief", False),
        ([b"a" * 10_000] * 4, "lengthy", False),
        ([b"a" * 10_000] * 5, "lengthy", True),
        ([b"a" * 1_000_000] * 3, "rejection", False),
        ([b"a" * 1_000_000] * 5, "rejection", True),
        ([b"a" * 500] * 64, "rejection", False),
    ],
)
def test_requests_with_much_to_read_are_long(texts: list[bytes], model: str, is_long: bool) -> None:
    message = request(elements(*texts), (len(texts), 1))
    message.model_name = model
    assert checked(message.SerializeToString(), MAX_ELEMENTS, read_bytes).is_long is is_long
    message.inputs[0].contents.bytes_contents.extend(texts)
    del message.raw_input_contents[:]
    if message.ByteSize() < 1 << 22:
        assert checked(message.SerializeToString(), MAX_ELEMENTS, read_bytes).is_long is is_long


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(b"\x2a\x00" * 100_000, id="empty inputs"),
        pytest.param(b"\x32\x00" * 100_000, id="empty outputs"),
        pytest.param(b"\x3a\x00" * 100_000, id="empty raw contents"),
        pytest.param(b"\x2a\x80\x89\x7a" + b"\x1a\xfc\x88\x7a" + bytes(2_000_000 - 4), id="two million dimensions"),
        pytest.param(b"\x2a\x80\x89\x7a" + b"\x2a\xfc\x88\x7a" + b"\x42\x00" * 999_998, id="a million empty texts"),
    ],
)
def test_what_grows_when_it_is_parsed_is_refused_before(bomb: bytes) -> None:
    with pytest.raises(Refusal, match=r"too many tensors, elements or options|cannot be parsed"):
        checked(bomb, MAX_ELEMENTS, read_bytes)


def raw_is_exact(message: Any) -> bool:
    """The rule once more, in other words: cut into elements, count."""
    count = 1
    for size in message.inputs[0].shape:
        count *= size
    raw, found = message.raw_input_contents[0], 0
    while len(raw) >= 4 and len(raw) - 4 >= struct.unpack("<I", raw[:4])[0]:
        raw = raw[4 + struct.unpack("<I", raw[:4])[0] :]
        found += 1
    return not raw and found == count


@pytest.mark.parametrize("seed", range(4))
def test_mutations_go_on_only_if_they_are_exact(seed: int) -> None:
    draw = random.Random(seed)
    passed = 0
    for _ in range(3000):
        texts = [draw.randbytes(draw.randrange(6)) for _ in range(draw.randrange(1, 5))]
        raw = bytearray(elements(*texts))
        kind = draw.randrange(4)
        if kind == 1:
            raw[draw.randrange(len(raw))] = draw.choice([0, 1, 2, 3, 255])
        elif kind == 2:
            del raw[draw.randrange(len(raw)) :]
        elif kind == 3:
            raw += draw.randbytes(draw.randrange(6))
        message = request(bytes(raw), (len(texts), 1))
        if raw_is_exact(message):
            assert check(message) == message
            passed += 1
        else:
            refused(message)
    assert passed > 700


@pytest.mark.parametrize("seed", range(4))
def test_any_bytes_end_in_a_request_or_a_refusal(seed: int) -> None:
    draw = random.Random(seed)
    message = request(elements(b"one", b"two"), (2, 1))
    message.outputs.add(name="logits").parameters["classification"].int64_param = 2
    plain = message.SerializeToString()
    for _ in range(3000):
        changed = bytearray(plain)
        for _ in range(draw.randrange(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            request_back = passed_on(bytes(changed))
        except Refusal as refusal:
            assert refusal.code is Code.INVALID_ARGUMENT  # noqa: PT017 - either outcome is right
        else:
            assert passed_on(request_back.SerializeToString()) == request_back


def test_a_part_is_told_of_its_owner() -> None:
    public = ("rejection", "toxicity")
    assert "'toxicity_scoring' is a part of 'toxicity' and" in part_of("toxicity_scoring", public).sentence
    assert "'tokenizer' is a part of 'rejection' and" in part_of("tokenizer", public).sentence
    says = part_of("by_hand", public).sentence
    assert says == "model 'by_hand' is not called from outside: call 'rejection' or 'toxicity'"
