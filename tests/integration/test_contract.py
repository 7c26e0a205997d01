"""The contract of the ensemble `rejection`, over real gRPC with nothing of ours between the test and the server."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import psutil
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from rejection_server.host import Server
from support.kserve import Wire, arrays, request, string_bytes
from support.repository import REPOSITORY, bundled_tokenizer

INVALID = grpc.StatusCode.INVALID_ARGUMENT
TEXTS = [
    "Sorry, but I can't assist with that.",
    "Boil the water, add the pasta and stir for ten minutes.",
    "I'm sorry to hear that! Here are three things that may help: rest, drink water, and call your doctor.",
    "I won't do that.",
]


def long_text(words: int) -> str:
    return " ".join(["word"] * words)


def test_metadata_is_the_contract(wire: Wire) -> None:
    metadata = wire.stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="rejection"), timeout=10)
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("text", "BYTES", [-1, 1]),
        ("max_length", "INT32", [-1, 1]),
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [
        ("probabilities", "FP32", [-1, 2]),
        ("logits", "FP32", [-1, 2]),
        ("token_count", "INT32", [-1, 1]),
    ]


def test_answers_have_the_promised_shapes_and_sums(wire: Wire) -> None:
    answer = wire.infer(TEXTS)
    assert answer["probabilities"].shape == answer["logits"].shape == (4, 2)
    assert answer["token_count"].shape == (4, 1)
    exponentials = np.exp(answer["logits"])
    np.testing.assert_allclose(answer["probabilities"], exponentials / exponentials.sum(1, keepdims=True), atol=1e-6)


def test_refusals_and_answers_are_told_apart(wire: Wire) -> None:
    assert wire.infer(TEXTS)["probabilities"].argmax(1).tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_the_classification_extension_names_labels(wire: Wire, output: str) -> None:
    message = request(TEXTS[:2])
    message.outputs.add(name=output).parameters["classification"].int64_param = 2
    answer = wire.stub.ModelInfer(message, timeout=10)
    raw, labels = answer.raw_output_contents[0], []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        labels.append(raw[4 : 4 + size].decode().split(":")[1:])
        raw = raw[4 + size :]
    assert labels == [["1", "REJECTION"], ["0", "NORMAL"], ["0", "NORMAL"], ["1", "REJECTION"]]


def test_token_count_is_that_before_truncation(wire: Wire) -> None:
    answer = wire.infer(["one two three", long_text(700)], max_length=[3, 512])
    assert answer["token_count"].ravel().tolist() == [5, 702]


def test_max_length_truncates(wire: Wire) -> None:
    text = "Here you are. " + TEXTS[0]
    tokenizer = bundled_tokenizer()
    (ids,) = tokenizer.token_ids([text])
    for limit in (1, 2, 3, 7, 512, 10_000):
        cut = wire.infer([text], max_length=limit)["logits"]
        direct = run_directly([tokenizer.truncate(ids, limit)])
        np.testing.assert_array_equal(cut, direct)
    np.testing.assert_array_equal(wire.infer([text])["logits"], wire.infer([text], max_length=10_000)["logits"])


def run_directly(rows: Sequence[Sequence[int]]) -> NDArray[Any]:
    """Logits of onnxruntime on the served model file, each row alone, without any server."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(REPOSITORY / "classifier" / "1" / "model.onnx"), options)
    return np.concatenate(
        [
            session.run(
                ["logits"],
                {"input_ids": np.array(row, np.int64), "sequence_lengths": np.array([[len(row)]], np.int32)},
            )[0]
            for row in rows
        ]
    )


def test_int8_logits_are_exactly_those_of_onnxruntime_single_and_in_any_batch(wire: Wire) -> None:
    texts = [*TEXTS, "", long_text(900), *(long_text(n) + TEXTS[0] for n in range(1, 60, 7))]
    tokenizer = bundled_tokenizer()
    direct = run_directly([tokenizer.truncate(ids, 512) for ids in tokenizer.token_ids(texts)])
    np.testing.assert_array_equal(wire.infer(texts)["logits"], direct)
    order = np.random.default_rng(5).permutation(len(texts))
    np.testing.assert_array_equal(wire.infer([texts[i] for i in order])["logits"], direct[order])
    pending = [wire.send(request([text])) for text in texts]
    np.testing.assert_array_equal(np.concatenate([arrays(one.result())["logits"] for one in pending]), direct)


def test_texts_of_48_lengths_share_executions(wire: Wire) -> None:
    texts = [long_text(n) for n in range(20, 20 + 48 * 5, 5)]
    before = wire.settled_statistics("classifier")
    # Two long requests keep both instances busy while the rest queue up.
    pending = [wire.send(request([long_text(500)] * 8)) for _ in range(2)]
    pending += [wire.send(request([text])) for text in texts]
    for one in pending:
        one.result()
    after = wire.settled_statistics("classifier")
    assert after.inference_count - before.inference_count == 48 + 16
    assert after.execution_count - before.execution_count < 12


@pytest.mark.parametrize("text", ["", "   ", "\n\t ", "\x00", "\x00\x01\x7f text \x00", "🙂", "👩‍👩‍👧 e\u0301"])
def test_odd_texts_are_classified(wire: Wire, text: str) -> None:
    answer = wire.infer([text])
    assert np.isfinite(answer["logits"]).all()
    assert answer["token_count"][0, 0] >= 2


def test_a_text_of_exactly_one_mebibyte_is_classified(wire: Wire) -> None:
    text = ("word " * (1 << 18))[: 1 << 20]
    assert 2048 <= wire.infer([text])["token_count"][0, 0] <= len(text.split()) + 2


def test_tokens_of_a_text_that_is_read_in_part_are_those_of_the_whole(wire: Wire) -> None:
    known = (" ".join(["No. "] * 600))[:3000]
    short, long = wire.infer([known])["logits"], wire.infer([known + " and more" * 100_000])["logits"]
    assert np.array_equal(short, long), "the first 512 tokens of both are the same"


@pytest.mark.parametrize(
    ("texts", "max_length", "says"),
    [
        ([b"ok", b"\xff\xfe"], None, "text in row 1 is not valid UTF-8: invalid start byte at byte 0"),
        (["\ud83d".encode("utf-8", "surrogatepass")], None, "text in row 0 is not valid UTF-8"),
        (["a", "b", "c" * ((1 << 20) + 1)], None, "text in row 2 has 1048577 bytes; at most 1048576"),
        (["a", "b"], [8, 0], "max_length in row 1 is 0; it must be 1 or more"),
        (["a"], -5, "max_length in row 0 is -5"),
    ],
)
def test_bad_values_name_the_row(
    wire: Wire, texts: list[str | bytes], max_length: int | list[int] | None, says: str
) -> None:
    code, message = wire.error(request(texts, max_length))
    assert code == INVALID
    assert message.startswith(f"in ensemble 'rejection', in ensemble 'scoring', {says}")
    assert_no_internals(message)


def changed(**changes: Any) -> service_pb2.ModelInferRequest:
    message = request(["a"])
    for field, value in changes.items():
        if field == "shape":
            message.inputs[0].shape[:] = value
        else:
            setattr(message.inputs[0], field, value)
    return message


def more(name: str, datatype: str, shape: list[int], raw: bytes) -> service_pb2.ModelInferRequest:
    message = request(["a"])
    message.inputs.add(name=name, datatype=datatype, shape=shape)
    message.raw_input_contents.append(raw)
    return message


def no_inputs() -> service_pb2.ModelInferRequest:
    return service_pb2.ModelInferRequest(model_name="rejection")


@pytest.mark.parametrize(
    ("message", "code", "says"),
    [
        (request([], shape=[0, 1]), INVALID, "expected 1 string elements for inference input 'text'"),
        (request(["a"] * 65), INVALID, "batch-size must be <= 64"),
        (changed(datatype="FP32"), INVALID, "data-type"),
        (changed(shape=[1]), INVALID, "shape"),
        (changed(shape=[1, 1, 1]), INVALID, "shape"),
        (changed(shape=[1, 2]), INVALID, "shape"),
        (changed(shape=[2, 1]), INVALID, "expected 2 string elements"),
        (changed(name="txt"), INVALID, "unexpected inference input 'txt'"),
        (no_inputs(), INVALID, "expected"),
        (more("max_length", "INT64", [1, 1], bytes(8)), INVALID, "data-type"),
        (more("max_length", "INT32", [2, 1], bytes(8)), INVALID, "batch size"),
        (more("threshold", "FP32", [1, 1], bytes(4)), INVALID, "threshold"),
        (request(["a"], outputs=["scores"]), INVALID, "scores"),
        (request(["a"], model="rejections"), grpc.StatusCode.NOT_FOUND, "unknown model: 'rejections'"),
    ],
)
def test_malformed_requests_are_refused_with_a_reason(
    wire: Wire, message: service_pb2.ModelInferRequest, code: grpc.StatusCode, says: str
) -> None:
    got, details = wire.error(message)
    assert got == code, details
    assert says in details
    assert_no_internals(details)


def assert_no_internals(message: str) -> None:
    assert "Traceback" not in message
    assert ".py" not in message
    assert "/" not in message.replace("and/or", "")


def test_one_bad_row_does_not_touch_63_good_ones_sent_at_the_same_moment(wire: Wire) -> None:
    texts = [f"{TEXTS[i % 4]} {i}" for i in range(63)]
    expected = np.concatenate([wire.infer([text])["logits"] for text in texts])
    before = wire.settled_statistics("classifier").inference_count
    pending = [wire.send(request([text])) for text in texts[:31]]
    bad = wire.send(request([b"broken \xff"]))
    pending += [wire.send(request([text])) for text in texts[31:]]
    assert bad.exception().code() == INVALID
    got = np.concatenate([arrays(one.result())["logits"] for one in pending])
    np.testing.assert_array_equal(got, expected)
    assert wire.settled_statistics("classifier").inference_count == before + 63


@pytest.mark.parametrize("model", ["rejection", "tokenizer"])
@pytest.mark.parametrize(
    "raw",
    [struct.pack("<I", 2_000_000_000) + b"abc", string_bytes(["abcdef"])[:-2], string_bytes(["abc"]) + b"x", b"\1\0"],
    ids=["too long", "cut off", "one byte more", "half a prefix"],
)
def test_a_wrong_layout_does_not_touch_good_ones_that_wait_beside_it(server: Server, model: str, raw: bytes) -> None:
    wire = Wire(server.triton_address)  # the guard lets none of these through
    message = request(["a"], model=model)
    message.raw_input_contents[0] = raw
    good = [request([text], model=model) for text in TEXTS]
    busy = wire.send(request([long_text(50_000)], model="tokenizer"))  # meanwhile the others wait together
    pending = [wire.send(one) for one in good[:2]]
    bad = wire.send(message)
    pending += [wire.send(one) for one in good[2:]]
    assert bad.exception().code() == INVALID, bad.exception()
    assert_no_internals(bad.exception().details())
    assert all(one.result().outputs for one in pending)
    assert busy.result().outputs


def test_the_server_lives_after_all_that(wire: Wire) -> None:
    assert wire.stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=10).ready
    assert wire.infer(TEXTS)["probabilities"].argmax(1).tolist() == [1, 0, 0, 1]


def test_what_computes_yields_to_what_answers(server: Server) -> None:
    nice: dict[str, set[int]] = {}
    for process in psutil.Process(server.pid).children(recursive=True):
        command = process.cmdline()
        if Path(command[0]).name == "triton_python_backend_stub":
            nice.setdefault(command[8].split("_")[0], set()).add(process.nice())  # its instance is its ninth argument
    front = psutil.Process(server.pid).nice()
    assert nice == {"tokenizer": {front}, "classifier": {front + 5}}
