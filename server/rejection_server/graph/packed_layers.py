"""The layers of a packed encoder: linear layers on the tokens of several rows at once, attention on rows of one length.

Profiled with onnxruntime 1.31 on one thread of an x86-64 processor: its SkipLayerNormalization takes several times as
long as the sums and the LayerNormalization it stands for, BiasGelu shows no gain, and MultiHeadAttention is as fast as
the products and the softmax that it stands for, for 400 tokens and more up to a tenth faster.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from rejection_server.graph.packed_match import Floats, Norm
from rejection_server.graph.packed_read import Encoder, Layer
from rejection_server.graph.quantize import to_int8

CONTRIB = "com.microsoft"
_LEVELS = 127.0
_MIDDLE = 128  # zero point of activations of either sign
_GELU_ZERO = 64  # zero point after GELU, which falls to -0.17 only: more levels are left for what is above
_GELU_LOWEST = 0.1701
_SMALLEST = 1e-30
_ROOT = np.float32(2**0.5)


class Nodes:
    """Collects nodes and constants; every result has a name of its own."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.prefix = prefix
        self._equal: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node; returns its result's name."""
        name = f"{self.prefix}_{len(self.nodes)}_{op}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def constant(self, name: str, value: ArrayLike) -> str:
        """Add a constant; of several with one name, or with one value, the first counts: layers may share weights."""
        name = f"{self.prefix}_{name}"
        if name in self.initializers:
            return name
        array = np.ascontiguousarray(value)
        key = str(array.dtype), array.shape, hashlib.sha256(array.data).digest()
        if key not in self._equal:
            self._equal[key] = name
            self.initializers[name] = numpy_helper.from_array(array.reshape(np.shape(value)), name)
        return self._equal[key]

    def ints(self, *values: int) -> str:
        """Add a vector of int64."""
        return self.constant("ints_" + "_".join(map(str, values)), np.asarray(values, np.int64))


@dataclass(frozen=True)
class Group:
    """Names of what tells the layers which tokens are which: t tokens in all, in runs of rows of one length."""

    ids: str = "group_ids"
    """int64 [t]"""
    positions: str = "group_positions"
    """int64 [t]: row of the table of positions."""
    longest: str = "group_longest"
    """int64: tokens of the longest row."""
    is_one_run: str = "group_is_one_run"
    """bool: whether all rows have that length."""
    runs: str = "group_runs"
    """int64: how many runs there are."""
    run_lengths: str = "group_run_lengths"
    """int64 [runs]: tokens of a row in each."""
    run_bounds: str = "group_run_bounds"
    """int64 [runs + 1]: where each begins among the t, and t."""
    firsts: str = "group_firsts"
    """int64 [rows]: each row's first token among the t."""
    zero_points: tuple[tuple[int, str], ...] = ((_MIDDLE, "group_zeros_128"), (_GELU_ZERO, "group_zeros_64"))
    """uint8 [t] by value."""


@dataclass(frozen=True)
class Layers:
    """Writes an encoder's nodes, in float32 or with int8 weights and one activation scale per token."""

    nodes: Nodes
    group: Group
    heads: int
    int8: bool

    def encoder(self, encoder: Encoder) -> str:
        """The last layer's first tokens, [rows, hidden]."""
        n = self.nodes
        if self.int8:
            table, scales = to_int8(encoder.words, axis=1)
            rows = n.add("Gather", n.constant("words_int8", table), self.group.ids)
            scale = n.add("Gather", n.constant("words_scale", scales), self.group.ids)
            words = n.add("Mul", n.add("Cast", rows, to=TensorProto.FLOAT), scale)
        else:
            words = n.add("Gather", n.constant("words", encoder.words), self.group.ids)
        positions = n.add("Gather", n.constant("positions", encoder.positions), self.group.positions)
        x = self._norm(n.add("Add", words, positions), encoder.norm, "embeddings")
        if encoder.projection is not None:
            x = self._product(x, encoder.projection.weight, "projection")
            x = self._biased(x, encoder.projection.bias, "projection")
        shift = "" if encoder.bias is None else self._bias(encoder.bias)
        for i, layer in enumerate(encoder.layers):
            x = self._layer(layer, x, shift, f"layer{i}", last=i == len(encoder.layers) - 1)
        return x

    def _bias(self, by_distance: Floats) -> str:
        """What all attentions add to their scores, [1, heads, longest, longest]."""
        n = self.nodes
        places = n.add("Range", n.constant("zero", np.int64(0)), self.group.longest, n.constant("step", np.int64(1)))
        distances = n.add("Sub", places, n.add("Unsqueeze", places, n.ints(1)))
        from_first = n.add("Add", distances, n.constant("farthest", np.int64(by_distance.shape[1] // 2)))
        of_heads = n.add("Gather", n.constant("bias", by_distance), from_first, axis=1)
        return n.add("Unsqueeze", of_heads, n.ints(0))

    def _layer(self, layer: Layer, x: str, shift: str, name: str, *, last: bool) -> str:
        n = self.nodes
        weight = np.concatenate([layer.query.weight, layer.key.weight, layer.value.weight], axis=1)
        made = self._product(x, weight, f"{name}_attention")
        context = self._attention(made, layer, shift, name)
        if last:  # the head reads no other token
            context, x = n.add("Gather", context, self.group.firsts), n.add("Gather", x, self.group.firsts)
            return self._of_firsts().behind_attention(layer, context, x, name)
        return self.behind_attention(layer, context, x, name)

    def _of_firsts(self) -> "Layers":
        """The same for each row's first token alone."""
        zeros = dict(self.group.zero_points) if self.int8 else {}
        firsts = tuple((value, self.nodes.add("Gather", name, self.group.firsts)) for value, name in zeros.items())
        return replace(self, group=replace(self.group, zero_points=firsts))

    def behind_attention(self, layer: Layer, context: str, x: str, name: str) -> str:
        """From what each token gathered and what the layer read to what it makes."""
        n = self.nodes
        # A value's bias passes through attention unchanged, whose weights add up to one.
        bias = layer.out.bias + layer.value.bias @ layer.out.weight
        out = self._biased(self._product(context, layer.out.weight, f"{name}_out"), bias, f"{name}_out")
        middle = self._norm(n.add("Add", out, x), layer.attention_norm, f"{name}_middle")
        down = self._feed_forward(layer, middle, name)
        return self._norm(n.add("Add", down, middle), layer.norm, f"{name}_end")

    def _attention(self, made: str, layer: Layer, shift: str, name: str) -> str:
        """From queries, keys and values [t, 3 * hidden] to what each token gathered, [t, hidden].

        `shift`, if any, is what is added to the scores.
        """
        n = self.nodes
        n.nodes.append(helper.make_node("Split", [made], [f"{name}_{part}" for part in "qkv"], axis=1, num_outputs=3))
        query, key, value = n.nodes[-1].output
        # A key's bias adds the same to all scores of a query, which softmax does not see.
        parts = self._biased(query, layer.query.bias, f"{name}_query"), key, value
        hidden = layer.query.weight.shape[1]
        alone = Nodes(f"{name}_one_run")
        whole = self._rows_of_one_length(alone, parts, shift, self.group.longest, hidden)
        runs = Nodes(f"{name}_runs")
        joined = self._run_by_run(runs, parts, shift, hidden)
        branches = {
            "then_branch": _graph("one_run", alone, whole),
            "else_branch": _graph("several_runs", runs, joined),
        }
        return n.add("If", self.group.is_one_run, **branches)

    def _run_by_run(self, n: Nodes, parts: tuple[str, str, str], shift: str, hidden: int) -> str:
        """The same for rows of several lengths, a run of equal ones at a time."""
        inner = Nodes(f"{n.prefix}_run")
        index, go, seen = (f"{inner.prefix}_{part}" for part in ("index", "go", "seen"))
        following = inner.add("Add", index, inner.constant("one", np.int64(1)))
        bounds = [
            inner.add("Unsqueeze", inner.add("Gather", self.group.run_bounds, at), inner.ints(0))
            for at in (index, following)
        ]
        query, key, value = (inner.add("Slice", part, *bounds, inner.ints(0)) for part in parts)
        length = inner.add("Gather", self.group.run_lengths, index)
        if shift:
            corner = inner.add("Expand", length, inner.ints(2))
            shift = inner.add("Slice", shift, inner.ints(0, 0), corner, inner.ints(2, 3))
        gathered = self._rows_of_one_length(inner, (query, key, value), shift, length, hidden)
        outputs = [inner.add("Identity", go), inner.add("SequenceInsert", seen, gathered)]
        sequence = helper.make_tensor_sequence_value_info
        body = helper.make_graph(
            inner.nodes,
            "one_run_of_several",
            [
                helper.make_tensor_value_info(index, TensorProto.INT64, []),
                helper.make_tensor_value_info(go, TensorProto.BOOL, []),
                sequence(seen, TensorProto.FLOAT, None),
            ],
            [
                helper.make_tensor_value_info(outputs[0], TensorProto.BOOL, []),
                sequence(outputs[1], TensorProto.FLOAT, None),
            ],
            list(inner.initializers.values()),
        )
        found = n.add("Loop", self.group.runs, "", n.add("SequenceEmpty", dtype=TensorProto.FLOAT), body=body)
        return n.add("ConcatFromSequence", found, axis=0)

    def _rows_of_one_length(self, n: Nodes, parts: tuple[str, str, str], shift: str, length: str, hidden: int) -> str:
        """The same for rows that all have ``length`` tokens (int64), from their [rows * length, hidden] each."""
        count = n.add("Unsqueeze", length, n.ints(0))
        shape = n.add("Concat", n.ints(-1), count, n.ints(hidden), axis=0)
        query, key, value = (n.add("Reshape", part, shape) for part in parts)
        # The root of the width of a head is in the query's weights.
        shifts = ["", "", shift] if shift else []
        mixed = n.add("MultiHeadAttention", query, key, value, *shifts, domain=CONTRIB, num_heads=self.heads, scale=1.0)
        return n.add("Reshape", mixed, n.ints(-1, hidden))

    def _feed_forward(self, layer: Layer, x: str, name: str) -> str:
        n = self.nodes
        up, bias, down = layer.up.weight, layer.up.bias, layer.down.weight
        if layer.activation == "gelu":
            # With u = x / sqrt(2), GELU is u * (1 + erf(u)) / sqrt(2); both roots move into the weights.
            up, bias, down = up / _ROOT, bias / _ROOT, down / _ROOT
        raised = self._biased(self._product(x, up, f"{name}_up"), bias, f"{name}_up")
        lowest = _GELU_LOWEST
        if layer.activation == "gelu":
            lowest *= float(_ROOT)
            bent = n.add("Mul", raised, n.add("Add", n.add("Erf", raised), n.constant("one", np.float32(1))))
        elif layer.activation == "gelu_tanh":
            bent = n.add("FastGelu", raised, domain=CONTRIB)
        else:
            bent = n.add("Relu", raised)
        return self._biased(self._product(bent, down, f"{name}_down", lowest), layer.down.bias, f"{name}_down")

    def _biased(self, x: str, bias: Floats, name: str) -> str:
        return self.nodes.add("Add", x, self.nodes.constant(f"{name}_bias", bias))

    def _norm(self, x: str, norm: Norm, name: str) -> str:
        n = self.nodes
        gain, bias = n.constant(f"{name}_gain", norm.gain), n.constant(f"{name}_shift", norm.bias)
        return n.add("LayerNormalization", x, gain, bias, axis=-1, epsilon=norm.epsilon)

    def _product(self, x: str, weight: Floats, name: str, lowest: float | None = None) -> str:
        """X @ weight; nothing in x is below ``-lowest``, if that is given."""
        n = self.nodes
        if not self.int8:
            return n.add("MatMul", x, n.constant(f"{name}_weight", weight))
        one = n.constant("one", np.float32(1))
        if lowest is None:
            zero = _MIDDLE
            largest = n.add("ReduceMax", n.add("Abs", x), n.ints(-1), keepdims=0)
            smallest, levels = _SMALLEST, _LEVELS
        else:
            zero = _GELU_ZERO
            largest = n.add("ReduceMax", x, n.ints(-1), keepdims=0)
            levels = float(np.iinfo(np.uint8).max - zero)
            smallest = lowest / zero * levels
        bounded = n.add("Max", largest, n.constant(f"smallest_{smallest:.3g}", np.float32(smallest)))
        scale = n.add("Mul", bounded, n.constant(f"inverse_{levels:.0f}", np.float32(1 / levels)))
        small = n.add("QuantizeLinear", x, scale, dict(self.group.zero_points)[zero], axis=0)
        q, scales = to_int8(weight, axis=0)
        zero_point = n.constant(f"zero_point_{zero}", np.uint8(zero))
        names = n.constant(f"{name}_int8", q), n.constant(f"{name}_scale", scales.reshape(-1))
        columns = n.add("MatMulIntegerToFloat", small, names[0], one, names[1], zero_point, domain=CONTRIB)
        return n.add("Mul", columns, n.add("Unsqueeze", scale, n.ints(1)))


def _graph(name: str, nodes: Nodes, result: str) -> GraphProto:
    """A branch: nodes with their constants, and one float result [t, hidden]."""
    output = helper.make_tensor_value_info(result, TensorProto.FLOAT, [None, None])
    return helper.make_graph(nodes.nodes, name, [], [output], list(nodes.initializers.values()))
