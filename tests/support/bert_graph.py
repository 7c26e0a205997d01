"""Random BERT-like classifiers, made without torch, in the form that exporters give: padded ids and mask in."""

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

WORDS, HIDDEN, LAYERS, HEADS, INNER, POSITIONS, PADDING = 3000, 64, 2, 4, 128, 514, 1

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


_BIASED = {
    "added": "b0 = Mul(a, scale) b = Add(bias, b0) c = Add(b, penalty)",
    "divided": "b0 = Add(a, bias) b = Div(b0, inverse_scale) c = Add(penalty, b)",
}
_BIAS = """
    ids_dims = Shape(input_ids) count = Gather(ids_dims, one) steps = Range(first_index, count, one)
    steps_down = Unsqueeze(steps, one_vector) apart = OPERATOR(steps, steps_down) near = Clip(apart, lowest, highest)
    bucket = Add(near, highest) looked = Gather(biases, bucket) turned = Transpose<perm=[2,0,1]>(looked)
    bias = Unsqueeze(turned, zero_vector)
"""


def bert(  # noqa: C901, PLR0913 - each is a way in which models differ
    *,
    roberta: bool = False,
    activation: str = "gelu",
    types: bool = True,
    early_norm: bool = False,
    masked: str = "added",
    width: int = HIDDEN,
    bias: str = "",
) -> ModelProto:
    """A random padded BERT (or RoBERTa, or without token types DistilBERT), spelled as PyTorch's exporter does.

    With embeddings of another `width` it is an ALBERT: they are projected, and all layers share their weights. With
    `bias` Sub it is an MPNet: scores are shifted by what the operator makes of the places of key and query.
    """
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

    shared = ("input_ids", "attention_mask", "position_ids", "penalty", "bias", "logits")
    SHARED = set(shared)
    table("words", WORDS, width)
    table("places", POSITIONS, width)
    write(_NUMBERED if roberta else _COUNTED)
    write("w = Gather(words, input_ids) p = Gather(places, position_ids)")
    total = "Add(w, p)"
    if types:
        table("kinds", 2, width)
        constants["zero_type"] = np.zeros((1, 1), np.int64)
        write("k = Gather(kinds, zero_type) s = Add(w, k)")
        total = "Add(s, p)"

    def norm(name: str, size: int = HIDDEN) -> None:
        constants[f"{name}_gain"] = (1 + random.standard_normal(size) * 0.1).astype(np.float32)
        table(f"{name}_shift", size, scale=0.1)

    norm("n0", width)
    normed = f"t = {total} x = LayerNormalization<epsilon=1e-12>(t, n0_gain, n0_shift)"
    if width == HIDDEN:
        write(normed, x="x_0")
    else:
        table("wide", width, HIDDEN, scale=width**-0.5)
        table("wide_bias", HIDDEN, scale=0.3)
        write(normed + "y = MatMul(x, wide) z = Add(y, wide_bias)", x="x_narrow", z="x_0")
    write(
        "m = Cast<to=1>(attention_mask) i = Sub(unit, m) j = Mul(i, far) penalty = Unsqueeze(j, axes)",
        suffix="_mask",
    )
    if bias:
        constants |= {"lowest": np.int64(-20), "highest": np.int64(20)}
        table("biases", 41, HEADS)
        write(_BIAS.replace("OPERATOR", bias))
    masks = _BIASED if bias else _MASKS
    for i in range(LAYERS):
        of = i if width == HIDDEN else 0  # whose weights
        for name, rows, columns in (
            ("wq", HIDDEN, HIDDEN),
            ("wk", HIDDEN, HIDDEN),
            ("wv", HIDDEN, HIDDEN),
            ("wo", HIDDEN, HIDDEN),
            ("wu", HIDDEN, INNER),
            ("wd", INNER, HIDDEN),
        ):
            table(f"{name}_{of}", rows, columns, scale=rows**-0.5)
            table(f"b{name}_{of}", columns, scale=0.3)
        norm(f"na_{of}")
        norm(f"nb_{of}")
        linear = " ".join(
            f"{s}0 = MatMul(x, w{s}_{of}) {s}1 = Add({s}0, bw{s}_{of}) {s}2 = Reshape({s}1, split)" for s in "qkv"
        )
        write(
            linear
            + f"""
            q3 = Transpose<perm=[0,2,1,3]>(q2) v3 = Transpose<perm=[0,2,1,3]>(v2) k3 = Transpose<perm=[0,2,3,1]>(k2)
            a = MatMul(q3, k3) {masks[masked]} probs = Softmax<axis=-1>(c)
            mixed = MatMul(probs, v3) turned = Transpose<perm=[0,2,1,3]>(mixed) joined = Reshape(turned, join)
            o0 = MatMul(joined, wo_{of}) o1 = Add(o0, bwo_{of}) r = Add(o1, x)
            middle = LayerNormalization<epsilon=1e-12>(r, na_{of}_gain, na_{of}_shift)
            u0 = MatMul(middle, wu_{of}) up = Add(u0, bwu_{of}) {_ACTIVATIONS[activation]}
            d0 = MatMul(bent, wd_{of}) d1 = Add(d0, bwd_{of}) r2 = Add(d1, {"x" if early_norm else "middle"})
            y = LayerNormalization<epsilon=1e-12>(r2, nb_{of}_gain, nb_{of}_shift)""",
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
