"""The varlen form answers like the padded classifier; its twin for a processor is equal but for attention."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from rejection_server.graph.ragged import to_ragged
from rejection_server.graph.varlen import cpu_twin, reads_offsets, to_varlen
from rejection_server.graph.walk import GraphError
from rejection_server.onnx_backend.token_ids import TokenIds
from support import ragged_graphs
from support.bert_graph import HEADS, HIDDEN, PADDING, POSITIONS, WORDS, bert
from support.ragged_graphs import run, session

LENGTHS = (12, 200, 1, 512, 47, 12, 16, 17, 64, 65, 3, 13)
SHAPES = {
    "bert": {},
    "roberta": {"roberta": True, "masked": "divided"},
    "albert": {"width": 24},
    "distilbert": {"types": False, "activation": "relu", "masked": "chosen"},
    "mpnet": {"roberta": True, "types": False, "bias": "Sub"},
    "bias before scaling": {"masked": "divided", "bias": "Sub"},
}
WITH_BIAS = pytest.mark.parametrize("bias", ["", "Sub"], ids=["no bias", "bias"])
ATTENTION = "PackedMultiHeadAttention"


def with_outputs(model: ModelProto, **outputs: int) -> ModelProto:
    """The model with values of the graph as further outputs, which are of these types."""
    model.graph.output.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items())
    return model


def with_another_bias(model: ModelProto) -> ModelProto:
    """The model, the last layer's bias of which is the negative of the others'."""
    made = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "bias")
    model.graph.node.insert(made + 1, helper.make_node("Neg", ["bias"], ["other_bias"]))
    last = [node for node in model.graph.node if node.op_type == "Add" and "bias" in node.input][-1]
    last.input[list(last.input).index("bias")] = "other_bias"
    return model


@pytest.mark.parametrize("float16", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_answers_are_those_of_the_padded_classifier(shape: dict[str, Any], float16: bool) -> None:
    model, rows = bert(**shape), ragged_graphs.rows_of_ids(LENGTHS, WORDS)
    rows[1][5:9] = PADDING  # a text may spell the padding token; RoBERTa does not count it
    padded = to_ragged(model, accepted=TokenIds(WORDS, POSITIONS), form="padded", pad_id=PADDING)
    expected = run(session(padded), rows)
    twin = session(cpu_twin(to_varlen(model, heads=HEADS, float16=float16)))
    np.testing.assert_allclose(run(twin, rows), expected, atol=5e-3 if float16 else 1e-5)


@WITH_BIAS
def test_the_served_file_is_as_the_twin_but_for_attention(bias: str) -> None:
    served = to_varlen(bert(roberta=True, bias=bias), heads=HEADS)
    twin = cpu_twin(served)
    assert list(served.graph.initializer) == list(twin.graph.initializer)
    assert served.opset_import == twin.opset_import

    def others(model: ModelProto) -> list[NodeProto]:
        return [node for node in model.graph.node if node.op_type != ATTENTION and "twin" not in node.name]

    assert others(served) == others(twin)
    attention = [node for node in served.graph.node if node.op_type == ATTENTION]
    assert len(attention) == len(served.graph.node) - len(others(served)) == 2
    for node in attention:
        made = [other for other in twin.graph.node if f"twin_of_{node.name}" in other.name]
        read = {name for other in made for name in other.input} - {name for other in made for name in other.output}
        assert read - {""} == {*node.input[:3], *node.input[5:]}
        assert len(node.input) == (7 if bias else 6)
        assert list(made[-1].output) == list(node.output)


@WITH_BIAS
def test_a_processor_lacks_nothing_but_the_attention(bias: str) -> None:
    """Operators, types and shapes are checked by then."""
    served = to_varlen(bert(bias=bias), heads=HEADS)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented) as caught:
        session(served)
    assert f"Failed to find kernel for com.microsoft.{ATTENTION}(1)" in str(caught.value)


def offsets_as_documented(lengths: list[int]) -> tuple[NDArray[np.int32], list[int]]:
    """`token_offset` and `cumulative_sequence_length` of rows padded to the longest, counted one by one."""
    longest = max(lengths)
    tokens = [row * longest + column for row, length in enumerate(lengths) for column in range(length)]
    rest = [row * longest + column for row, length in enumerate(lengths) for column in range(length, longest)]
    return np.array(tokens + rest, np.int32).reshape(-1, longest), [0, *np.cumsum(lengths).tolist()]


@pytest.mark.parametrize("lengths", [[4, 1, 7, 7, 2], [5], [3, 3, 3]], ids=str)
def test_attention_is_told_where_rows_begin(lengths: list[int]) -> None:
    names = dict.fromkeys(("varlen_token_offset", "varlen_cumulative"), TensorProto.INT32)
    runner = session(with_outputs(cpu_twin(to_varlen(bert(), heads=HEADS, float16=False)), **names))
    offsets, cumulative = offsets_as_documented(lengths)
    rows = ragged_graphs.rows_of_ids(lengths, WORDS)
    np.testing.assert_array_equal(run(runner, rows, output="varlen_token_offset"), offsets)
    assert run(runner, rows, output="varlen_cumulative").tolist() == cumulative


def test_fused_attention_is_told_the_shape_alone() -> None:
    runner = session(with_outputs(cpu_twin(to_varlen(bert(), heads=HEADS)), varlen_token_offset=TensorProto.INT32))
    offsets = run(runner, ragged_graphs.rows_of_ids([4, 1, 7], WORDS), output="varlen_token_offset")
    assert offsets.shape == (3, 7)
    assert [reads_offsets(size, float16=True) for size in (64, 32, 512, 20)] == [False, False, False, True]
    assert reads_offsets(64, float16=False)


@pytest.mark.parametrize("float16", [False, True], ids=["float32", "float16"])
def test_a_bias_has_a_width_that_kernels_take_and_no_more_than_rows_may_have(float16: bool) -> None:
    """Memory-efficient attention refuses others; a row that holds too many ids must not cost memory by their square."""
    served = to_varlen(bert(bias="Sub"), heads=HEADS, float16=float16)
    biases = {node.input[6] for node in served.graph.node if node.op_type == ATTENTION}
    assert len(biases) == 1, "made once"
    kind = TensorProto.FLOAT16 if float16 else TensorProto.FLOAT
    runner = session(
        with_outputs(cpu_twin(served), **dict.fromkeys(biases, kind), varlen_token_offset=TensorProto.INT32)
    )
    (bias,) = biases
    for lengths, width in (([4, 1, 7], 16), ([16], 16), ([17, 3], 32), ([POSITIONS, 5], 528), ([3, 2000], 528)):
        rows = ragged_graphs.rows_of_ids(lengths, WORDS)
        assert run(runner, rows, output="varlen_token_offset").shape == (len(rows), width)
        assert run(runner, rows, output=bias).shape == (1, HEADS, width, width)


def test_nothing_is_padded_and_the_last_layer_ends_with_first_tokens() -> None:
    model = cpu_twin(to_varlen(bert(), heads=HEADS, float16=False))
    activated = [node.output[0] for node in model.graph.node if node.op_type == "BiasGelu"]
    runner = session(with_outputs(model, **dict.fromkeys(activated, TensorProto.FLOAT)))
    shapes = [
        run(runner, ragged_graphs.rows_of_ids([300, 5, 40], WORDS), [0, 295, 260], name).shape[0] for name in activated
    ]
    assert shapes == [345, 3]


def test_a_gpu_needs_no_cudnn_and_sums_up_rows_alone() -> None:
    """onnxruntime's CUDA reductions are cuDNN's; its cumulative sum is slow on a long axis."""
    for model in (
        to_varlen(bert(roberta=True), heads=HEADS),
        to_ragged(bert(roberta=True), accepted=TokenIds(WORDS, POSITIONS), form="padded"),
    ):
        front = [node for node in model.graph.node if any(name.startswith(("gpu", "varlen")) for name in node.output)]
        assert not [node for node in front if node.op_type.startswith(("Reduce", "ArgM", "Compress"))]
        grids = {"gpu_filled", "gpu_lengths", "gpu_weights", "varlen_counted"}
        assert {node.input[0] for node in front if node.op_type == "CumSum"} <= grids


def test_head_and_scores_are_float32() -> None:
    model = to_varlen(bert(), heads=HEADS)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["varlen_word_table"] == kinds["varlen_layer1_down_weight"] == TensorProto.FLOAT16
    assert {kinds[name] for name in ("dense", "head", "head_bias")} == {TensorProto.FLOAT}
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {TensorProto.FLOAT}


def test_a_containers_onnxruntime_reads_the_file() -> None:
    """Opset 18 and IR 9 are those of onnxruntime 1.14 and newer."""
    model = to_varlen(bert(), heads=HEADS)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18, "com.microsoft": 1}
    assert model.ir_version <= 9
    onnx.checker.check_model(cpu_twin(model))


@pytest.mark.parametrize(
    ("model", "heads", "reason"),
    [
        (bert(activation="silu"), HEADS, "activation"),
        (bert(), HEADS * 2, "differ from the original's"),
        (bert(), HIDDEN - 1, "cannot be split"),
        (bert(bias="Sub"), HEADS * 2, "for 4 heads, and there are 8"),
        (bert(bias="Max"), HEADS, "not the distance alone"),
        (with_another_bias(bert(bias="Sub")), HEADS, "add different biases"),
    ],
    ids=["activation", "heads", "indivisible", "heads of bias", "places", "layers"],
)
def test_models_that_do_not_fit_are_refused(model: ModelProto, heads: int, reason: str) -> None:
    with pytest.raises(GraphError, match=reason):
        to_varlen(model, heads=heads)
