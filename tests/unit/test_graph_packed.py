"""The packed form answers like the padded classifier, and in int8 bit for bit the same in any batch."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from rejection_server.graph.packed import to_packed
from rejection_server.graph.ragged import to_ragged
from rejection_server.graph.walk import GraphError
from rejection_server.onnx_backend.token_ids import TokenIds
from support import ragged_graphs
from support.bert_graph import HEADS, HIDDEN, INNER, LAYERS, PADDING, POSITIONS, WORDS, bert
from support.ragged_graphs import Ids, run, session
from support.tiny_models import padded_classifier

ACCEPTED = TokenIds(WORDS, POSITIONS)
LENGTHS = (12, 200, 1, 512, 47, 12, 16, 17, 64, 65, 3, 13)


def rows_of_ids(lengths: Iterable[int]) -> list[Ids]:
    return ragged_graphs.rows_of_ids(lengths, WORDS)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"roberta": True, "masked": "divided"},
        {"types": False, "activation": "relu", "masked": "chosen"},
        {"width": 24},
        {"roberta": True, "types": False, "bias": "Sub"},
        {"masked": "divided", "bias": "Sub"},
    ],
    ids=["bert", "roberta", "distilbert", "albert", "mpnet", "bias before scaling"],
)
def test_float32_equals_the_padded_classifier(shape: dict[str, Any]) -> None:
    model, rows = bert(**shape), rows_of_ids(LENGTHS)
    rows[1][5:9] = PADDING  # a text may spell the padding token; RoBERTa does not count it
    expected = run(session(to_ragged(model, accepted=ACCEPTED, form="padded", pad_id=PADDING)), rows)
    packed = session(to_packed(model, heads=HEADS))
    np.testing.assert_allclose(run(packed, rows), expected, atol=1e-5)
    filler = [3, 0, 9, 0, 1, 0, 0, 2, 0, 0, 30, 0]
    np.testing.assert_allclose(run(packed, rows, filler), expected, atol=1e-5)


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
def test_weights_that_layers_share_are_kept_once(int8: bool) -> None:
    kept = []
    for width in (HIDDEN, HIDDEN // 2):
        packed = to_packed(bert(width=width), heads=HEADS, int8=int8)
        (loop,) = (node for node in packed.graph.node if node.op_type == "Loop")
        weights = loop.attribute[0].g.initializer
        kept.append(sum(list(tensor.dims) == [HIDDEN, INNER] for tensor in weights))
    assert kept == [LAYERS, 1]


@pytest.mark.parametrize("roberta", [False, True])
def test_int8_logits_are_bit_identical_alone_and_in_any_batch(roberta: bool) -> None:
    runner = session(to_packed(bert(roberta=roberta), heads=HEADS, int8=True))
    random = np.random.default_rng(5)
    pool = rows_of_ids((*LENGTHS, *random.integers(1, 90, 40)))
    alone = np.concatenate([run(runner, [row]) for row in pool])
    for size in (2, 5, 16, 33, 52):
        chosen = random.permutation(len(pool))[:size]
        np.testing.assert_array_equal(run(runner, [pool[i] for i in chosen]), alone[chosen])


def test_int8_is_as_close_to_float32_as_the_loop_form() -> None:
    from rejection_server.graph.quantize import quantize_per_token

    model, rows = bert(), rows_of_ids(np.random.default_rng(2).integers(1, 80, 48))
    exact = run(session(to_packed(model, heads=HEADS)), rows)
    packed = run(session(to_packed(model, heads=HEADS, int8=True)), rows)
    loop = run(session(to_ragged(quantize_per_token(model), accepted=ACCEPTED, form="loop")), rows)
    assert np.abs(packed - exact).mean() < 1.5 * np.abs(loop - exact).mean()


def test_64_rows_of_one_length() -> None:
    model, rows = bert(), rows_of_ids([13] * 64)
    expected = run(session(to_ragged(model, accepted=ACCEPTED, form="loop")), rows)
    np.testing.assert_allclose(run(session(to_packed(model, heads=HEADS)), rows), expected, atol=1e-5)


def test_probabilities() -> None:
    rows, model = rows_of_ids([5, 9]), bert()
    runner = session(to_packed(model, heads=HEADS))
    logits = run(runner, rows)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(run(runner, rows, output="probabilities"), expected, atol=1e-6)
    runner = session(to_packed(model, heads=HEADS, activation="sigmoid"))
    np.testing.assert_allclose(run(runner, rows, output="probabilities"), 1 / (1 + np.exp(-logits)), atol=1e-6)


def rows_of_each_group(model: ModelProto, inner: str) -> list[int]:
    """How many rows a value inside the loop has, group by group."""
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    body.node.append(helper.make_node("Shape", [inner], ["shape"], end=1))
    body.output.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [1]))
    loop.output.append("shapes")
    model.graph.output.append(helper.make_tensor_value_info("shapes", TensorProto.INT64, ["groups", 1]))
    rows = rows_of_ids([13] * 9 + [300, 5, 40, 6, 88, 7, 80])
    counts: list[int] = run(session(model), rows, output="shapes").ravel().tolist()
    return counts


def test_linear_layers_run_once_for_all_short_rows() -> None:
    """Of whatever length: a group holds 256 tokens, 300 are a group alone."""
    assert rows_of_each_group(to_packed(bert(), heads=HEADS), "group_ids") == [5 + 6 + 7 + 9 * 13 + 40 + 80, 88, 300]


def test_the_last_layer_ends_with_first_tokens_alone() -> None:
    """The head reads no others."""
    model = to_packed(bert(), heads=HEADS)
    body = next(node for node in model.graph.node if node.op_type == "Loop").attribute[0].g
    first, last = (node.output[0] for node in body.node if node.op_type == "Erf")
    assert rows_of_each_group(model, last) == [14, 1, 1]
    assert rows_of_each_group(to_packed(bert(), heads=HEADS), first)[1:] == [88, 300]


@pytest.mark.parametrize(
    ("model", "heads", "reason"),
    [
        (bert(activation="silu"), HEADS, "activation"),
        (bert(early_norm=True), HEADS, "residual"),
        (bert(), 8, "differ from the original's"),
        (bert(), 7, "cannot be split"),
        (padded_classifier(), 1, "expected"),
    ],
    ids=["activation", "residual", "heads", "indivisible", "not a BERT"],
)
def test_models_that_do_not_fit_are_refused(model: ModelProto, heads: int, reason: str) -> None:
    with pytest.raises(GraphError, match=reason):
        to_packed(model, heads=heads)
