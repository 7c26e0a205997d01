"""Messages of the inference protocol: what is sent for texts, and what is read from an answer."""

import struct
from dataclasses import replace
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from rejection_client import InvalidInputError, ModelInfo, NoPositiveLabelError, Prediction, UnexpectedAnswerError
from rejection_client.protocol import (
    infer_request,
    labels_request,
    read_labels,
    read_max_length,
    read_positive_label,
    read_predictions,
    step_models,
)

MODEL = ModelInfo(
    name="m",
    versions=("1",),
    labels=("NORMAL", "REJECTION"),
    positive_label="REJECTION",
    max_batch_size=64,
    max_length=512,
    server="triton 2",
)


def answer(**tensors: tuple[str, bytes]) -> Any:
    """An answer with tensors given as name=(datatype, bytes)."""
    response = service_pb2.ModelInferResponse(model_name="rejection")
    for name, (datatype, raw) in tensors.items():
        response.outputs.add(name=name, datatype=datatype)
        response.raw_output_contents.append(raw)
    return response


def strings(*elements: str) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in map(str.encode, elements))


def test_texts_travel_as_length_and_bytes() -> None:
    request = infer_request("m", ["a", "", "é\0"])
    assert request.model_name == "m"
    assert [(i.name, i.datatype, list(i.shape)) for i in request.inputs] == [("text", "BYTES", [3, 1])]
    assert list(request.raw_input_contents) == [b"\1\0\0\0a" + b"\0\0\0\0" + b"\3\0\0\0\xc3\xa9\0"]
    assert [output.name for output in request.outputs] == ["probabilities", "token_count"]


def test_max_length_is_an_input_with_a_row_for_each_text() -> None:
    request = infer_request("m", ["a", "b"], max_length=258)
    assert [(i.name, i.datatype, list(i.shape)) for i in request.inputs][1] == ("max_length", "INT32", [2, 1])
    assert request.raw_input_contents[1] == b"\2\1\0\0" * 2


def test_a_lone_surrogate_is_refused_by_row_before_sending() -> None:
    with pytest.raises(InvalidInputError, match=r"text row 65 .* character 1 is a lone surrogate") as caught:
        infer_request("m", ["fine", "x\ud800"], rows=[3, 65])
    assert caught.value.row == 65
    assert isinstance(caught.value.__cause__, UnicodeEncodeError)


@pytest.mark.parametrize("max_length", [2**31, 0, -1])
def test_max_length_that_cannot_be_is_refused(max_length: int | None) -> None:
    with pytest.raises(InvalidInputError, match="max_length") as caught:
        infer_request("m", ["a"], max_length=max_length)
    assert caught.value.row is None


def test_something_other_than_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="text row 1 is of type bytes, not str"):
        infer_request("m", ["a", b"b"])  # type: ignore[list-item]  # the mistake


def test_labels_come_in_index_order_and_may_hold_colons() -> None:
    raw = strings("0.9:2:C:c", "0.08:0:A", "0.02:1:B")
    assert read_labels(answer(probabilities=("BYTES", raw))) == ("A", "B", "C:c")
    assert labels_request("m").outputs[0].parameters["classification"].int64_param > 1000


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"probabilities": ("BYTES", strings("0.9:1", "0.1:0"))}, "label_filename"),
        ({"probabilities": ("BYTES", strings("0.9:1:B"))}, r"numbers its labels \[1\]"),
        ({"probabilities": ("BYTES", b"")}, "numbers its labels"),
        ({"probabilities": ("BYTES", strings("0.9:1:A", "0.1:0:A"))}, "two labels of one name"),
        ({"probabilities": ("FP32", b"")}, "without the BYTES tensor 'probabilities'"),
        ({"scores": ("BYTES", strings("0.9:0:A"))}, "without the BYTES tensor 'probabilities'"),
    ],
)
def test_an_answer_without_labels_is_explained(tensors: dict[str, tuple[str, bytes]], message: str) -> None:
    with pytest.raises(UnexpectedAnswerError, match=message):
        read_labels(answer(**tensors))


def test_predictions_by_row() -> None:
    floats = struct.pack("<4f", 0.25, 0.75, 0.5, 0.5)
    response = answer(token_count=("INT32", struct.pack("<2i", 7, 512)), probabilities=("FP32", floats))
    assert read_predictions(response, 2, MODEL) == [
        Prediction("REJECTION", {"NORMAL": 0.25, "REJECTION": 0.75}, 7, False, "REJECTION"),
        Prediction("NORMAL", {"NORMAL": 0.5, "REJECTION": 0.5}, 512, False, "REJECTION"),
    ]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"probabilities": ("FP32", b"\0" * 8)}, "without the INT32 tensor 'token_count'"),
        ({"probabilities": ("FP32", b"\0" * 12), "token_count": ("INT32", b"\0" * 4)}, "12 bytes where 8 belong"),
        ({"probabilities": ("FP32", b"\0" * 8), "token_count": ("INT32", b"\0" * 8)}, "8 bytes where 4 belong"),
        ({"probabilities": ("FP64", b"\0" * 8), "token_count": ("INT32", b"\0" * 4)}, "FP32 tensor 'probabilities'"),
    ],
)
def test_an_answer_of_another_shape_is_explained(tensors: dict[str, tuple[str, bytes]], message: str) -> None:
    with pytest.raises(UnexpectedAnswerError, match=message):
        read_predictions(answer(**tensors), 1, MODEL)


@pytest.mark.parametrize(
    ("token_count", "max_length", "model_max_length", "truncated"),
    [
        (512, None, 512, False),
        (513, None, 512, True),
        (9, 8, 512, True),
        (513, 1000, 512, True),
        (9, 8, None, True),
        (8, 8, None, False),
        (10_000, None, None, None),
    ],
)
def test_a_text_is_truncated_where_the_smaller_limit_says(
    token_count: int, max_length: int | None, model_max_length: int | None, truncated: bool | None
) -> None:
    response = answer(
        token_count=("INT32", struct.pack("<i", token_count)), probabilities=("FP32", struct.pack("<2f", 1, 0))
    )
    model = replace(MODEL, max_length=model_max_length)
    assert read_predictions(response, 1, model, max_length)[0].truncated is truncated


def test_the_models_maximum_is_a_parameter_of_an_ensembles_step() -> None:
    config = model_config_pb2.ModelConfig(name="rejection")
    config.ensemble_scheduling.step.add(model_name="tokenizer")
    config.ensemble_scheduling.step.add(model_name="classifier")
    assert step_models(config) == ["tokenizer", "classifier"]
    assert read_max_length(config) is None
    for value, length in {"512": 512, "0": None, "many": None}.items():
        config.parameters["model_max_length"].string_value = value
        assert read_max_length(config) == length


def test_the_positive_label_is_a_name_and_not_a_place() -> None:
    config = model_config_pb2.ModelConfig(name="m")
    assert read_positive_label(config, ("REJECTION", "NORMAL"), None) is None
    assert read_positive_label(config, ("REJECTION", "NORMAL"), "NORMAL") == "NORMAL"
    config.parameters["positive_label"].string_value = "REJECTION"
    assert read_positive_label(config, ("REJECTION", "NORMAL"), None) == "REJECTION"
    assert read_positive_label(config, ("REJECTION", "NORMAL"), "NORMAL") == "NORMAL"
    with pytest.raises(NoPositiveLabelError, match=r"has no label 'refusal', .*; it has REJECTION, NORMAL"):
        read_positive_label(config, ("REJECTION", "NORMAL"), "refusal")
    floats = {"probabilities": ("FP32", struct.pack("<2f", 0.9, 0.1)), "token_count": ("INT32", struct.pack("<i", 3))}
    (found,) = read_predictions(answer(**floats), 1, replace(MODEL, labels=("REJECTION", "NORMAL")))
    assert found.score == found.scores["REJECTION"] > 0.89
    assert found.is_rejection()
