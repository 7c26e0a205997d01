"""Reading, completing and checking a model configuration."""

from collections.abc import Sequence
from typing import Any

import pytest

from rejection_server.onnx_backend import autocomplete
from rejection_server.onnx_backend.config import ModelConfig
from rejection_server.onnx_backend.refusal import LoadRefusedError
from rejection_server.onnx_backend.tensor_types import TensorInfo
from rejection_server.onnx_backend.validation import check_inputs, check_outputs
from support import onnx_instance

IDS = TensorInfo("input_ids", "TYPE_INT64", (-1, -1))
MASK = TensorInfo("attention_mask", "TYPE_INT64", (-1, -1))
LOGITS = TensorInfo("logits", "TYPE_FP32", (-1, 2))


def infos(*tensors: TensorInfo) -> dict[str, TensorInfo]:
    return {tensor.name: tensor for tensor in tensors}


def entry(name: str, data_type: str = "TYPE_INT64", dims: Sequence[int | str] = (-1,), **more: Any) -> dict[str, Any]:
    return onnx_instance.entry(name, data_type, dims, **more)


def config(inputs: Sequence[dict[str, Any]] = (), outputs: Sequence[dict[str, Any]] = (), **more: Any) -> ModelConfig:
    return onnx_instance.config(input=inputs, output=outputs, **more)


def parameter(value: str) -> ModelConfig:
    return config(parameters={"key": value})


@pytest.mark.parametrize(("value", "number"), [("2", 2), (" -3", -3), ("+4", 4), ("5 threads", 5), ("7.9", 7)])
def test_integer_parameters_are_read_as_cpp_reads_them(value: str, number: int) -> None:
    assert parameter(value).integer("key") == number


@pytest.mark.parametrize("value", ["two", "", "-", "99999999999"])
def test_integer_parameter_that_is_none(value: str) -> None:
    with pytest.raises(LoadRefusedError) as refused:
        parameter(value).integer("key")
    assert refused.value.sentence == f"failed to convert '{value}' to integral number"


@pytest.mark.parametrize(
    ("value", "result"), [("True", True), ("on", True), ("1", True), ("FALSE", False), ("0", False)]
)
def test_boolean_parameters(value: str, result: bool) -> None:
    assert parameter(value).boolean("key") is result


def test_boolean_parameter_that_is_none() -> None:
    with pytest.raises(LoadRefusedError, match="failed to convert 'yes' to boolean"):
        parameter("yes").boolean("key")


def test_absent_parameters_have_defaults() -> None:
    assert config().integer("key", 3) == 3
    assert config().boolean("key") is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "BATCH_X"}, "unexpected batch input kind 'BATCH_X'"),
        ({"data_type": "TYPE_INT64"}, "unexpected batch input data type 'TYPE_INT64'"),
    ],
)
def test_batch_inputs_that_are_refused(change: dict[str, str], sentence: str) -> None:
    batch_input = {
        "kind": "BATCH_ITEM_SHAPE",
        "data_type": "TYPE_INT32",
        "source_input": ["ids"],
        "target_name": ["lengths"],
    }
    with pytest.raises(LoadRefusedError, match=sentence):
        config(batch_input=[{**batch_input, **change}])


@pytest.mark.parametrize(
    "more",
    [{"sequence_batching": {}}, {"model_transaction_policy": {"decoupled": True}}],
    ids=["sequence", "decoupled"],
)
def test_what_only_the_container_does(more: dict[str, Any]) -> None:
    with pytest.raises(LoadRefusedError, match="not supported on the embedded host, use NVIDIA's image"):
        config(**more)


def test_reshape_takes_the_place_of_dims() -> None:
    parsed = config([entry("x", dims=[1], reshape={"shape": []}), entry("y", dims=["3"])])
    assert [tensor.dims for tensor in parsed.inputs] == [(), (3,)]


BATCHED_DIMS = (
    "model 'X', tensor 'logits': the model expects 2 dimensions (shape [-1,2]) but the model configuration specifies "
    "2 dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making "
    "complete shape [-1,3])"
)
SCALAR = TensorInfo("x", "TYPE_FP32", ())


@pytest.mark.parametrize(
    ("config", "inputs", "sentence"),
    [
        (
            config(
                [entry("a"), entry("b")],
                batch_input=[
                    {
                        "kind": "BATCH_ELEMENT_COUNT",
                        "data_type": "TYPE_INT32",
                        "source_input": ["a"],
                        "target_name": ["c"],
                    }
                ],
            ),
            infos(IDS, MASK),
            "unable to load model 'X', configuration expects 3 inputs, model provides 2",
        ),
        (
            config([entry("ids"), entry("attention_mask")]),
            infos(IDS, MASK),
            "unexpected inference input 'ids', allowed inputs are: attention_mask, input_ids",
        ),
        (
            config([entry("input_ids", "TYPE_INT32")]),
            infos(IDS),
            "unable to load model 'X', configuration expects datatype TYPE_INT32 for input 'input_ids', model provides "
            "TYPE_INT64",
        ),
        (
            config([entry("t", "TYPE_INT32")]),
            infos(TensorInfo("t", "TYPE_STRING", (-1, 1))),
            "unable to load model 'X', configuration expects datatype TYPE_INT32 for input 't', model provides "
            "TYPE_BYTES",
        ),
        (
            config([entry("input_ids", "TYPE_BF16")]),
            infos(IDS),
            "unsupported datatype TYPE_BF16 for input 'input_ids' for model 'X'",
        ),
        (
            config([entry("input_ids", allow_ragged_batch=True)]),
            infos(IDS),
            "unable to load model 'X', configuration expects model provides input with shape [-1] for ragged input "
            "'input_ids', model provides [-1,-1]",
        ),
        (
            config([entry("input_ids", optional=True)]),
            {},
            "unable to load model 'X', optional input 'input_ids' is not supported for models that support batching",
        ),
        (
            config([entry("x", allow_ragged_batch=True, optional=True)], max_batch_size=0),
            {},
            "unable to load model 'X', configuration expects model provides input with shape [-1] for ragged input "
            "'x', which is not supported for optional input",
        ),
        (
            config([entry("input_ids")]),
            infos(TensorInfo("input_ids", "TYPE_INT64", (1, -1))),
            "model 'X', tensor 'input_ids': for the model to support batching the shape should have at least 1 "
            "dimension and the first dimension must be -1; but shape expected by the model is [1,-1]",
        ),
        (
            config([entry("input_ids", dims=[4, 4])], max_batch_size=0),
            infos(TensorInfo("input_ids", "TYPE_INT64", (-1, 5))),
            "model 'X', tensor 'input_ids': the model expects 2 dimensions (shape [-1,5]) but the model configuration "
            "specifies 2 dimensions (shape [4,4])",
        ),
        (
            config([entry("x", "TYPE_FP32", dims=[2])], max_batch_size=0),
            infos(SCALAR),
            "unable to load model 'X', scalar tensor 'x', should only provide 1 in the model configuration when the "
            "model doesn't support batching. Model configuration provided: [2].",
        ),
    ],
)
def test_inputs_that_are_refused(config: ModelConfig, inputs: dict[str, TensorInfo], sentence: str) -> None:
    with pytest.raises(LoadRefusedError) as refused:
        check_inputs(config, inputs, {})
    assert refused.value.sentence == sentence


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (entry("scores", "TYPE_FP32", [2]), "unexpected inference output 'scores', allowed outputs are: logits"),
        (
            entry("logits", "TYPE_FP16", [2]),
            "unable to load model 'X', configuration expects datatype TYPE_FP16 for output 'logits', model provides "
            "TYPE_FP32",
        ),
        (entry("logits", "TYPE_FP32", [3]), BATCHED_DIMS),
        (entry("logits", "TYPE_FP32", [-1]), BATCHED_DIMS.replace("[-1,3]", "[-1,-1]")),
    ],
)
def test_outputs_that_are_refused(output: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LoadRefusedError) as refused:
        check_outputs(config(outputs=[output]), infos(LOGITS))
    assert refused.value.sentence == sentence


def test_configurations_that_fit() -> None:
    check_inputs(config([entry("input_ids"), entry("attention_mask", dims=[5])]), infos(IDS, MASK), {})
    check_inputs(config([entry("x", "TYPE_FP32", dims=[1])], max_batch_size=0), infos(SCALAR), {})
    check_inputs(config([entry("x", optional=True)], max_batch_size=0), {}, infos(TensorInfo("x", "TYPE_INT64", (-1,))))
    check_outputs(config(outputs=[entry("logits", "TYPE_FP32", [2])]), infos(LOGITS))


def test_a_scattered_output_may_have_another_shape_than_the_model() -> None:
    scatter = {"kind": "BATCH_SCATTER_WITH_INPUT_SHAPE", "target_name": ["y"], "source_input": ["ids"]}
    parsed = config(outputs=[entry("y", "TYPE_FP32", [-1])], batch_output=[scatter])
    check_outputs(parsed, infos(TensorInfo("y", "TYPE_FP32", (-1,))))


def test_an_absent_configuration_is_completed() -> None:
    raw = {"name": "X", "max_batch_size": 0, "input": [], "output": []}
    [warning] = autocomplete.complete(raw, infos(MASK, IDS), infos(LOGITS))
    assert raw["max_batch_size"] == 4
    assert raw["dynamic_batching"] == {}
    assert raw["input"] == [entry("attention_mask"), entry("input_ids")]
    assert raw["output"] == [entry("logits", "TYPE_FP32", [2])]
    assert warning.startswith("autofilled max_batch_size to 4 for model 'X'")


def test_only_what_is_absent_is_completed() -> None:
    raw = {"name": "X", "max_batch_size": 1, "input": [entry("mine")], "output": []}
    assert autocomplete.complete(raw, infos(IDS), infos(LOGITS)) == []
    assert raw["input"] == [entry("mine")]
    assert raw["output"] == [entry("logits", "TYPE_FP32", [2])]
    assert "dynamic_batching" not in raw


def test_a_configured_dynamic_batching_is_kept() -> None:
    raw = {"name": "X", "max_batch_size": 8, "dynamic_batching": {"max_queue_delay_microseconds": 5}}
    autocomplete.complete(raw, infos(IDS), infos(LOGITS))
    assert raw["dynamic_batching"] == {"max_queue_delay_microseconds": 5}


def test_a_model_that_cannot_batch_is_completed_with_all_its_dimensions() -> None:
    raw = {"name": "X", "max_batch_size": 0}
    assert autocomplete.complete(raw, infos(SCALAR, IDS), infos(LOGITS)) == []
    assert raw["max_batch_size"] == 0
    assert raw["input"] == [entry("x", "TYPE_FP32", [1]), entry("input_ids", dims=[-1, -1])]
    assert raw["output"] == [entry("logits", "TYPE_FP32", [-1, 2])]


def test_rows_without_further_dimensions_are_reshaped() -> None:
    raw = {"name": "X", "max_batch_size": 0}
    autocomplete.complete(raw, infos(TensorInfo("x", "TYPE_FP32", (-1,))), infos(LOGITS))
    assert raw["input"] == [entry("x", "TYPE_FP32", [1], reshape={"shape": []})]


def test_a_batch_size_for_a_model_that_cannot_batch() -> None:
    with pytest.raises(LoadRefusedError) as refused:
        autocomplete.complete({"name": "X", "max_batch_size": 2}, infos(SCALAR), infos(LOGITS))
    assert refused.value.sentence == (
        "autofill failed for model 'X': model does not support batching while non-zero max_batch_size is specified"
    )


def test_what_counts_as_complete() -> None:
    assert autocomplete.is_complete({"input": [entry("x")], "output": [entry("y")]})
    assert autocomplete.is_complete({"batch_input": [{}], "output": [entry("y")]})
    assert not autocomplete.is_complete({"input": [entry("x")], "output": []})
    assert not autocomplete.is_complete({"output": [entry("y")]})
