"""The layers of an encoder in the varlen form, out of operators that onnxruntime has fused CUDA kernels for.

A bias is added where a kernel runs anyway: that of the feed-forward's first product by BiasGelu, those of the products
before a residual sum by SkipLayerNormalization. Only a query's is left: a key's adds the same to all scores of a query,
which softmax does not see, and a value's passes through attention unchanged into the next product.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rejection_server.graph.packed_layers import CONTRIB, Nodes
from rejection_server.graph.packed_match import Floats, Norm
from rejection_server.graph.packed_read import Encoder, Layer


@dataclass(frozen=True)
class Choices:
    """Which of several equal ways is taken. The defaults are the fastest as measured on a GPU."""

    float16: bool = True
    """Weights and activations in float16, else in float32."""
    columns: int | None = None
    """See :func:`rejection_server.graph.gpu_rows.gpu_rows`."""
    exact_offsets: bool = True
    """Fill `token_offset`, of which flash and memory-efficient attention read the shape alone."""
    fused_norm: bool = True
    """SkipLayerNormalization instead of sums and LayerNormalization."""
    fused_activation: bool = True
    """BiasGelu (exact) or, for GELU by tanh, FastGelu, instead of a sum and the activation."""
    joined_products: bool = False
    """Queries, keys and values by one product and a Split instead of three products."""
    firsts_only: bool = True
    """The last layer goes on with each row's first token alone after its attention: the head reads no other."""


@dataclass(frozen=True)
class Rows:
    """Names of what tells the tokens of all rows apart: t tokens."""

    ids: str = "gpu_tokens"
    """int64 [t]"""
    positions: str = "varlen_positions"
    """int64 [t]: row of the table of positions."""
    offsets: str = "varlen_token_offset"
    """int32 [rows, columns]"""
    cumulative: str = "varlen_cumulative"
    """int32 [rows + 1]: where each row begins among the t, and t."""
    firsts: str = "varlen_firsts"
    """int64 [rows]: each row's first token."""


@dataclass(frozen=True)
class VarlenLayers:
    """Writes an encoder's nodes."""

    nodes: Nodes
    rows: Rows
    heads: int
    choices: Choices

    def encoder(self, encoder: Encoder) -> str:
        """The last layer's first tokens, float32 [rows, hidden]."""
        n = self.nodes
        words = n.add("Gather", self._weight("word_table", encoder.words), self.rows.ids)
        positions = n.add("Gather", self._weight("position_table", encoder.positions), self.rows.positions)
        x = self._sum_and_norm(words, positions, None, encoder.norm, "embeddings")
        for i, layer in enumerate(encoder.layers):
            last = i == len(encoder.layers) - 1
            x = self._layer(layer, x, f"layer{i}", firsts=last and self.choices.firsts_only)
        if not self.choices.firsts_only:
            x = n.add("Gather", x, self.rows.firsts)
        return n.add("Cast", x, to=TensorProto.FLOAT)

    def _layer(self, layer: Layer, x: str, name: str, *, firsts: bool) -> str:
        n = self.nodes
        context = self._attention(layer, x, name)
        if firsts:
            context, x = n.add("Gather", context, self.rows.firsts), n.add("Gather", x, self.rows.firsts)
        bias = layer.out.bias + layer.value.bias @ layer.out.weight
        out = self._product(context, layer.out.weight, f"{name}_out")
        middle = self._sum_and_norm(out, x, bias, layer.attention_norm, f"{name}_middle")
        raised = self._product(middle, layer.up.weight, f"{name}_up")
        bent = self._activated(raised, layer, f"{name}_up")
        down = self._product(bent, layer.down.weight, f"{name}_down")
        return self._sum_and_norm(down, middle, layer.down.bias, layer.norm, f"{name}_end")

    def _attention(self, layer: Layer, x: str, name: str) -> str:
        """What each token gathered, [t, hidden]."""
        n = self.nodes
        linears = {"query": layer.query, "key": layer.key, "value": layer.value}
        if self.choices.joined_products:
            weight = np.concatenate([linear.weight for linear in linears.values()], axis=1)
            made = self._product(x, weight, f"{name}_attention")
            parts = [f"varlen_{name}_{part}" for part in linears]
            n.nodes.append(helper.make_node("Split", [made], parts, axis=1, num_outputs=3))
        else:
            parts = [self._product(x, linear.weight, f"{name}_{part}") for part, linear in linears.items()]
        query = n.add("Add", parts[0], self._weight(f"{name}_query_bias", layer.query.bias))
        # Keys and values of their own: packed with the queries, short rows would take kernels that not every build has.
        # The root of the width of a head is in the query's weights.
        return n.add(
            "PackedMultiHeadAttention",
            *(query, *parts[1:], "", self.rows.offsets, self.rows.cumulative),
            domain=CONTRIB,
            num_heads=self.heads,
            scale=1.0,
        )

    def _activated(self, x: str, layer: Layer, name: str) -> str:
        n = self.nodes
        bias = self._weight(f"{name}_bias", layer.up.bias)
        if layer.activation == "relu":
            return n.add("Relu", n.add("Add", x, bias))
        fused, alone = {"gelu": ("BiasGelu", "Gelu"), "gelu_tanh": ("FastGelu", "FastGelu")}[layer.activation]
        if self.choices.fused_activation:
            return n.add(fused, x, bias, domain=CONTRIB)
        return n.add(alone, n.add("Add", x, bias), domain=CONTRIB)

    def _sum_and_norm(self, x: str, other: str, bias: Floats | None, norm: Norm, name: str) -> str:
        """The normalised sum of x, a bias and what the layer read."""
        n = self.nodes
        gain, shift = self._weight(f"{name}_gain", norm.gain), self._weight(f"{name}_shift", norm.bias)
        constant = [] if bias is None else [self._weight(f"{name}_bias", bias)]
        if self.choices.fused_norm:
            inputs = (x, other, gain, shift, *constant)
            return n.add("SkipLayerNormalization", *inputs, domain=CONTRIB, epsilon=norm.epsilon)
        for part in (*constant, other):
            x = n.add("Add", x, part)
        return n.add("LayerNormalization", x, gain, shift, axis=-1, epsilon=norm.epsilon)

    def _product(self, x: str, weight: Floats, name: str) -> str:
        return self.nodes.add("MatMul", x, self._weight(f"{name}_weight", weight))

    def _weight(self, name: str, value: Floats) -> str:
        array: NDArray[Any] = value.astype(np.float16) if self.choices.float16 else value
        return self.nodes.constant(name, array)
