"""The packed form answers like the padded classifier, and in int8 bit for bit the same in any batch."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

from rejection_server.graph.packed import to_packed
from rejection_server.graph.ragged import GraphError, to_ragged
from support import ragged_graphs
from support.ragged_graphs import Ids, run, session
from support.tiny_models import padded_classifier

WORDS, HIDDEN, LAYERS, HEADS, INNER, POSITIONS, PADDING = 3000, 64, 2, 4, 128, 514, 1
LENGTHS = (12, 200, 1, 512, 47, 12, 16, 17, 64, 65, 3, 13)

_NUMBERED = """
    is_padding = Equal(input_ids, padding)
    no_padding = Not(is_padding)
    counted = Cast<to=7>(no_padding)
    numbers = CumSum(counted, one)
    numbers_or_0 = Mul(numbers, counted)
    position_ids = Add(numbers_or_0, padding)
"""
_COUNTED = """
    ids_shape = Shape(input_ids)
    tokens_vector = Slice(ids_shape, one_vector, two_vector)
    position_ids = Slice(all_positions, zero_vector, tokens_vector, one_vector)
"""
_ACTIVATIONS = {
    "gelu": "d = Div(up, root) e = Erf(d) f = Add(e, unit) g = Mul(half, f) bent = Mul(up, g)",
    "relu": "bent = Relu(up)",
    "silu": "g = Sigmoid(up) bent = Mul(up, g)",
}


_MASKS = {
    "added": "b = Mul(a, scale) c = Add(b, penalty)",
    "divided": "b = Div(a, inverse_scale) c = Add(penalty, b)",
    "chosen": "blocked = Less(penalty, nought) b = Mul(a, scale) c = Where(blocked, far, b)",
}


def bert(
    *,
    roberta: bool = False,
    activation: str = "gelu",
    types: bool = True,
    early_norm: bool = False,
    masked: str = "added",
) -> ModelProto:
    """A random padded BERT (or RoBERTa, or without token types DistilBERT), spelled as PyTorch's exporter does."""
    random = np.random.default_rng(3)
    constants = {
        "padding": np.int64(PADDING),
        "one": np.int64(1),
        "one_vector": np.array([1]),
        "two_vector": np.array([2]),
        "zero_vector": np.array([0]),
        "all_positions": np.arange(POSITIONS)[None],
        "root": np.float32(2**0.5),
        "unit": np.float32(1),
        "half": np.float32(0.5),
        "scale": np.float32((HIDDEN // HEADS) ** -0.5),
        "inverse_scale": np.float32((HIDDEN // HEADS) ** 0.5),
        "nought": np.float32(0),
        "split": np.array([0, 0, HEADS, HIDDEN // HEADS]),
        "join": np.array([0, 0, HIDDEN]),
        "axes": np.array([1, 2]),
        "far": np.float32(-1e9),
        "first_index": np.int64(0),
    }
    nodes: list[NodeProto] = []

    def write(text: str, suffix: str = "", **names: str) -> None:
        for node in parser.parse_graph(f"g (float x) => (float x) {{ {text} }}").node:
            for values in (node.input, node.output):
                values[:] = [names.get(n, n if n in constants or n in SHARED else f"{n}{suffix}") for n in values]
            nodes.append(node)

    def table(name: str, *shape: int, scale: float = 1.0) -> None:
        constants[name] = (random.standard_normal(shape) * scale).astype(np.float32)

    shared = ("input_ids", "attention_mask", "position_ids", "penalty", "logits")
    SHARED = set(shared)
    table("words", WORDS, HIDDEN)
    table("places", POSITIONS, HIDDEN)
    write(_NUMBERED if roberta else _COUNTED)
    write("w = Gather(words, input_ids) p = Gather(places, position_ids)")
    total = "Add(w, p)"
    if types:
        table("kinds", 2, HIDDEN)
        constants["zero_type"] = np.zeros((1, 1), np.int64)
        write("k = Gather(kinds, zero_type) s = Add(w, k)")
        total = "Add(s, p)"

    def norm(name: str) -> None:
        constants[f"{name}_gain"] = (1 + random.standard_normal(HIDDEN) * 0.1).astype(np.float32)
        table(f"{name}_shift", HIDDEN, scale=0.1)

    norm("n0")
    write(f"t = {total} x = LayerNormalization<epsilon=1e-12>(t, n0_gain, n0_shift)", x="x_0")
    write(
        "m = Cast<to=1>(attention_mask) i = Sub(unit, m) j = Mul(i, far) penalty = Unsqueeze(j, axes)",
        suffix="_mask",
    )
    for i in range(LAYERS):
        for name, rows, columns in (
            ("wq", HIDDEN, HIDDEN),
            ("wk", HIDDEN, HIDDEN),
            ("wv", HIDDEN, HIDDEN),
            ("wo", HIDDEN, HIDDEN),
            ("wu", HIDDEN, INNER),
            ("wd", INNER, HIDDEN),
        ):
            table(f"{name}_{i}", rows, columns, scale=rows**-0.5)
            table(f"b{name}_{i}", columns, scale=0.3)
        norm(f"na_{i}")
        norm(f"nb_{i}")
        linear = " ".join(
            f"{s}0 = MatMul(x, w{s}_{i}) {s}1 = Add({s}0, bw{s}_{i}) {s}2 = Reshape({s}1, split)" for s in "qkv"
        )
        write(
            linear
            + f"""
            q3 = Transpose<perm=[0,2,1,3]>(q2) v3 = Transpose<perm=[0,2,1,3]>(v2) k3 = Transpose<perm=[0,2,3,1]>(k2)
            a = MatMul(q3, k3) {_MASKS[masked]} probs = Softmax<axis=-1>(c)
            mixed = MatMul(probs, v3) turned = Transpose<perm=[0,2,1,3]>(mixed) joined = Reshape(turned, join)
            o0 = MatMul(joined, wo_{i}) o1 = Add(o0, bwo_{i}) r = Add(o1, x)
            middle = LayerNormalization<epsilon=1e-12>(r, na_{i}_gain, na_{i}_shift)
            u0 = MatMul(middle, wu_{i}) up = Add(u0, bwu_{i}) {_ACTIVATIONS[activation]}
            d0 = MatMul(bent, wd_{i}) d1 = Add(d0, bwd_{i}) r2 = Add(d1, {"x" if early_norm else "middle"})
            y = LayerNormalization<epsilon=1e-12>(r2, nb_{i}_gain, nb_{i}_shift)""",
            suffix=f"_l{i}",
            x=f"x_{i}",
            y=f"x_{i + 1}",
        )
    table("dense", HIDDEN, HIDDEN, scale=HIDDEN**-0.5)
    table("head", 3, HIDDEN, scale=HIDDEN**-0.5)
    table("head_bias", 3)
    write(
        "f = Gather<axis=1>(x, first_index) h = MatMul(f, dense) z = Tanh(h) logits = Gemm<transB=1>(z,head,head_bias)",
        suffix="_head",
        x=f"x_{LAYERS}",
    )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "bert",
        [value(name, TensorProto.INT64, ["rows", "tokens"]) for name in ("input_ids", "attention_mask")],
        [value("logits", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def rows_of_ids(lengths: Iterable[int]) -> list[Ids]:
    return ragged_graphs.rows_of_ids(lengths, WORDS)


@pytest.mark.parametrize(
    "shape",
    [{}, {"roberta": True, "masked": "divided"}, {"types": False, "activation": "relu", "masked": "chosen"}],
    ids=["bert", "roberta", "distilbert"],
)
def test_float32_equals_the_padded_classifier(shape: dict[str, Any]) -> None:
    model, rows = bert(**shape), rows_of_ids(LENGTHS)
    rows[1][5:9] = PADDING  # a text may spell the padding token; RoBERTa does not count it
    expected = run(session(to_ragged(model, form="padded", pad_id=PADDING)), rows)
    packed = session(to_packed(model, heads=HEADS))
    np.testing.assert_allclose(run(packed, rows), expected, atol=1e-5)
    filler = [3, 0, 9, 0, 1, 0, 0, 2, 0, 0, 30, 0]
    np.testing.assert_allclose(run(packed, rows, filler), expected, atol=1e-5)


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
    loop = run(session(to_ragged(quantize_per_token(model), form="loop")), rows)
    assert np.abs(packed - exact).mean() < 1.5 * np.abs(loop - exact).mean()


def test_64_rows_of_one_length() -> None:
    model, rows = bert(), rows_of_ids([13] * 64)
    expected = run(session(to_ragged(model, form="loop")), rows)
    np.testing.assert_allclose(run(session(to_packed(model, heads=HEADS)), rows), expected, atol=1e-5)


@pytest.mark.parametrize("roberta", [False, True])
@pytest.mark.parametrize("int8", [False, True])
def test_a_row_of_filler_leaves_the_others_alone(roberta: bool, int8: bool) -> None:
    """It is scored as the one token 0, which is what the tokenizer gives for a text without tokens."""
    runner = session(to_packed(bert(roberta=roberta), heads=HEADS, int8=int8))
    rows = rows_of_ids((0, 5, 0, 80, 12, 0))
    together = run(runner, rows, filler=[3, 0, 7, 1, 0, 2])
    expected = np.concatenate([run(runner, [row if len(row) else np.array([0])]) for row in rows])
    np.testing.assert_allclose(together, expected, atol=0 if int8 else 1e-5)
    np.testing.assert_allclose(run(runner, [rows[0]], filler=[4]), expected[:1], atol=1e-5)


def test_probabilities() -> None:
    rows, model = rows_of_ids([5, 9]), bert()
    runner = session(to_packed(model, heads=HEADS))
    logits = run(runner, rows)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(run(runner, rows, output="probabilities"), expected, atol=1e-6)
    runner = session(to_packed(model, heads=HEADS, activation="sigmoid"))
    np.testing.assert_allclose(run(runner, rows, output="probabilities"), 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_linear_layers_run_once_for_all_short_rows() -> None:
    """Of whatever length: a group holds 256 tokens, 300 are a group alone."""
    model = to_packed(bert(), heads=HEADS)
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    body.node.append(helper.make_node("Shape", ["group_ids"], ["shape"]))
    body.output.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [1]))
    loop.output.append("shapes")
    model.graph.output.append(helper.make_tensor_value_info("shapes", TensorProto.INT64, ["groups", 1]))
    shapes = run(session(model), rows_of_ids([13] * 9 + [300, 5, 40, 6, 88, 7, 80]), output="shapes")
    assert shapes.ravel().tolist() == [5 + 6 + 7 + 9 * 13 + 40 + 80, 88, 300]


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
