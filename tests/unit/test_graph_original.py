"""ONNX files as people have them: what is found in them, and that what is built on then answers as they do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

from rejection_server.graph.float16 import to_float16
from rejection_server.graph.original import Found, to_original
from rejection_server.graph.ragged import to_ragged
from rejection_server.graph.walk import GraphError
from rejection_server.prepare.errors import CorruptedError, UnsupportedError
from rejection_server.prepare.onnx_file import check_raw, check_usable, load_onnx, read_onnx
from support.tiny_models import ACCEPTED, padded_classifier

PLAIN = Found("fp32", None, ())
IDS = [[7, 8, 9, 300], [5]]
ROWS = [np.array([ids]) for ids in IDS]


def answers(model: ModelProto, rows: list[Any] = ROWS) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    kinds = {value.name: np.int32 if "int32" in value.type else np.int64 for value in session.get_inputs()}
    feeds = [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in rows]
    return np.concatenate(
        [session.run(None, {k: v.astype(kinds[k]) for k, v in feed.items()})[0].astype(np.float32) for feed in feeds]
    )


def with_int32(model: ModelProto) -> ModelProto:
    for value in model.graph.input:
        value.type.tensor_type.elem_type = TensorProto.INT32
    return model


def ending_with(function: str, behind: str = "") -> Callable[[ModelProto], ModelProto]:
    def change(model: ModelProto) -> ModelProto:
        graph = model.graph
        graph.node[-1].output[0] = "scores"
        graph.node.append(helper.make_node(function, ["scores"], ["applied" if behind else "logits"]))
        if behind:
            graph.node.append(helper.make_node(behind, ["applied"], ["logits"]))
        return model

    return change


def softmax(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(scores)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(
    ("change", "found", "applied", "within"),
    [
        (lambda model: model, PLAIN, lambda scores: scores, 0),
        (with_int32, Found("fp32", None, ("input_ids", "attention_mask")), lambda scores: scores, 0),
        (ending_with("Softmax"), Found("fp32", "Softmax", ()), softmax, 1e-6),
        (ending_with("LogSoftmax"), Found("fp32", "LogSoftmax", ()), lambda s: np.log(softmax(s)), 1e-6),
        (ending_with("Sigmoid", "Identity"), Found("fp32", "Sigmoid", ()), lambda s: 1 / (1 + np.exp(-s)), 1e-6),
        (to_float16, Found("fp16", None, ()), lambda scores: scores, 0.02),
        (
            lambda model: to_float16(with_int32(ending_with("Softmax")(model))),
            Found("fp16", "Softmax", ("input_ids", "attention_mask")),
            softmax,
            0.02,
        ),
    ],
    ids=["plain", "int32", "softmax", "log-softmax", "sigmoid", "float16", "all"],
)
def test_what_is_found_and_what_is_left(tmp_path: Path, change: Any, found: Found, applied: Any, within: float) -> None:
    given = change(padded_classifier(3))
    onnx.save(given, tmp_path / "model.onnx")
    assert read_onnx(tmp_path / "model.onnx", tmp_path / "original.onnx", IDS) == found
    assert found.changed == (tmp_path / "original.onnx").exists() == (found != PLAIN)
    left = load_onnx(tmp_path / ("original.onnx" if found.changed else "model.onnx"))
    onnx.checker.check_model(left)
    assert {value.type.tensor_type.elem_type for value in left.graph.input} == {TensorProto.INT64}
    assert {tensor.data_type for tensor in left.graph.initializer} == {TensorProto.FLOAT}
    np.testing.assert_allclose(applied(answers(left)), answers(given), atol=within)
    assert bool(found.told()) == found.changed


def test_int8_stays(tmp_path: Path) -> None:
    onnx.save(padded_classifier(), tmp_path / "model.onnx")
    quantize_dynamic(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    found = read_onnx(tmp_path / "int8.onnx", tmp_path / "original.onnx", IDS)
    assert (found.weights, found.changed) == ("int8", False)
    check_usable(found, "model.onnx", "softmax", "auto", "cpu")
    for precision, device in (("fp32", "cpu"), ("auto", "gpu")):
        with pytest.raises(UnsupportedError, match="quantised already, to int8"):
            check_usable(found, "model.onnx", "softmax", precision, "gpu" if device == "gpu" else "cpu")


def fixed(axis: int, size: int) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[axis].dim_value = size

    return change


def of_floats(model: ModelProto) -> None:
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT


def renamed(model: ModelProto) -> None:
    model.graph.input[1].name = "position_ids"


def with_nan(model: ModelProto) -> None:
    tensor = model.graph.initializer[1]
    values = numpy_helper.to_array(tensor).copy()
    values[3, 4] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (fixed(1, 128), "its input input_ids takes texts of exactly 128 tokens: export it with dynamic axes"),
        (fixed(0, 8), "takes exactly 8 texts at a time"),
        (of_floats, "its input attention_mask is FLOAT"),
        (renamed, "this model takes input_ids, position_ids"),
        (with_nan, "its weight query_weight holds NaN"),
    ],
)
def test_what_cannot_be_served(change: Callable[[ModelProto], None], says: str) -> None:
    model = padded_classifier()
    change(model)
    with pytest.raises(GraphError, match=says):
        to_original(model)


def test_a_fixed_number_of_one_text_is_for_a_cpu() -> None:
    model = padded_classifier()
    fixed(0, 1)(model)
    assert to_original(model) == PLAIN
    to_ragged(model, form="loop", accepted=ACCEPTED)
    with pytest.raises(GraphError, match="takes one text at a time, and a GPU needs many"):
        to_ragged(model, form="padded", accepted=ACCEPTED)


def test_a_function_that_the_configuration_does_not_mean() -> None:
    found = Found("fp32", "Sigmoid", ())
    check_usable(found, "model.onnx", "sigmoid", "auto", "cpu")
    with pytest.raises(
        UnsupportedError, match=r"model\.onnx ends with a Sigmoid, and config\.json means softmax: set pro"
    ):
        check_usable(found, "model.onnx", "softmax", "auto", "cpu")


def test_a_rewritten_file_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Behind the Sigmoid is a Softmax, which is taken for nothing at all.
    onnx.save(ending_with("Sigmoid", "Softmax")(padded_classifier()), tmp_path / "model.onnx")
    monkeypatch.setattr("rejection_server.graph.original._TRANSPARENT", ("Identity", "Cast", "Softmax"))
    monkeypatch.setattr("rejection_server.graph.original._FUNCTIONS", ("Sigmoid",))
    with pytest.raises(UnsupportedError, match="it answers otherwise"):
        read_onnx(tmp_path / "model.onnx", tmp_path / "original.onnx", IDS)


def test_scores_for_each_token_are_no_text_classifiers(tmp_path: Path) -> None:
    model = with_int32(padded_classifier())
    model.graph.node[-1].output[0] = "scores"
    nodes = onnx.parser.parse_graph("g (float x) => (float x) { logits = Gather<axis=0>(scores, input_ids) }").node
    model.graph.node.extend([helper.make_node("Expand", ["scores", "many"], ["rows"]), *nodes])
    model.graph.node[-1].input[0] = "rows"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1000, 2]), "many"))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match=r"is no text classifier: its output 'logits' has the shape \[1, 4, 2\]"):
        read_onnx(tmp_path / "model.onnx", tmp_path / "original.onnx", IDS)


def test_a_softmax_in_another_form_is_noticed() -> None:
    check_raw(np.array([[0.2, 0.9], [0.5, 0.5]]), "model.onnx")
    check_raw(np.array([[1.0], [1.0]]), "model.onnx")
    check_raw(np.array([[1.5, -0.5]]), "model.onnx")
    with pytest.raises(UnsupportedError, match=r"model\.onnx gives add up to 1 for every text"):
        check_raw(np.array([[0.2, 0.8], [0.5, 0.5]]), "model.onnx")


@pytest.mark.parametrize("content", [b"", b"\x08", b"no graph at all", b"\x00" * 100])
def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(CorruptedError, match=r"model\.onnx is not a readable ONNX file"):
        load_onnx(tmp_path / "model.onnx")
