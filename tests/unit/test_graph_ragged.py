"""The ragged form answers like the padded classifier, row by row, whatever shares the batch."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from rejection_server.graph.quantize import quantize_per_token
from rejection_server.graph.ragged import Form, to_ragged
from rejection_server.graph.rows import Activation
from rejection_server.graph.walk import GraphError
from support import ragged_graphs
from support.ragged_graphs import Ids, run, session
from support.tiny_models import ACCEPTED, VOCABULARY, padded_classifier, with_token_types

LENGTHS = (12, 200, 1, 512, 47)


def rows_of_ids(lengths: Iterable[int] = LENGTHS) -> list[Ids]:
    return ragged_graphs.rows_of_ids(lengths, VOCABULARY)


def run_padded_original(model: ModelProto, rows: Sequence[NDArray[np.int64]]) -> NDArray[Any]:
    """Each row alone, without padding: what the classifier means."""
    runner = session(model)
    more = {"token_type_ids"} & {value.name for value in model.graph.input}
    answers = []
    for ids in rows:
        feed = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
        feed |= {name: np.zeros((1, len(ids)), np.int64) for name in more}
        answers.append(runner.run(["logits"], feed)[0][0])
    return np.array(answers)


@pytest.mark.parametrize("form", ["loop", "padded"])
@pytest.mark.parametrize("filler", [None, [3, 0, 4, 0, 1], [0, 9, 0, 0, 0]])
def test_rows_of_many_lengths_equal_the_original(form: Form, filler: list[int] | None) -> None:
    model, rows = padded_classifier(), rows_of_ids()
    got = run(session(to_ragged(model, accepted=ACCEPTED, form=form)), rows, filler)
    np.testing.assert_allclose(got, run_padded_original(model, rows), atol=1e-5)


@pytest.mark.parametrize("form", ["loop", "padded"])
def test_token_types_are_zero(form: Form) -> None:
    model, rows = with_token_types(padded_classifier()), rows_of_ids()
    got = run(session(to_ragged(model, accepted=ACCEPTED, form=form)), rows)
    np.testing.assert_allclose(got, run_padded_original(model, rows), atol=1e-5)


def test_softmax_and_sigmoid() -> None:
    rows = rows_of_ids()
    model = padded_classifier(labels=3)
    activations: tuple[Activation, ...] = ("softmax", "sigmoid")
    for activation in activations:
        runner = session(to_ragged(model, accepted=ACCEPTED, form="loop", activation=activation))
        powers = np.exp(run(runner, rows))
        expected = powers / powers.sum(1, keepdims=True) if activation == "softmax" else powers / (1 + powers)
        np.testing.assert_allclose(run(runner, rows, output="probabilities"), expected, atol=1e-6)


def test_int8_logits_are_bit_identical_alone_and_in_any_batch() -> None:
    rows = rows_of_ids((5, 80, 31, 3, 200, 64))
    for form in ("loop", "padded"):
        runner = session(to_ragged(quantize_per_token(padded_classifier()), accepted=ACCEPTED, form=form))
        together = run(runner, rows)
        order = [4, 0, 5, 2]
        some = run(runner, [rows[i] for i in order])
        alone = np.concatenate([run(runner, [row]) for row in rows])
        if form == "loop":
            np.testing.assert_array_equal(together, alone)
            np.testing.assert_array_equal(some, together[order])
        else:  # attention's float sums run over the padding
            np.testing.assert_allclose(together, alone, atol=1e-3)


def test_int8_is_close_to_float32_and_a_quarter_of_its_size() -> None:
    model, rows = padded_classifier(), rows_of_ids()
    small = quantize_per_token(model)
    got = run(session(to_ragged(small, accepted=ACCEPTED, form="loop")), rows)
    np.testing.assert_allclose(got, run_padded_original(model, rows), atol=0.1)
    assert small.ByteSize() < 0.3 * model.ByteSize()
    kinds = [node.op_type for node in small.graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 4, "query, key, inner and head are linear layers"
    assert kinds.count("MatMul") == 2, "products of two activations stay in floating point"


def test_unknown_inputs_are_refused() -> None:
    model = padded_classifier()
    model.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["rows"]))
    with pytest.raises(GraphError, match="this model takes input_ids, attention_mask, pixels"):
        to_ragged(model, accepted=ACCEPTED, form="loop")


def test_several_outputs_without_logits_are_refused() -> None:
    model = padded_classifier()
    model.graph.output[0].name = "mean"
    model.graph.output.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, ["rows", 32]))
    with pytest.raises(GraphError, match="one named logits; this model gives mean, total"):
        to_ragged(model, accepted=ACCEPTED, form="loop")


def test_logits_of_three_dimensions_are_refused() -> None:
    model = padded_classifier()
    model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 2
    with pytest.raises(GraphError, match="must have the shape \\[rows, labels\\]"):
        to_ragged(model, accepted=ACCEPTED, form="loop")
