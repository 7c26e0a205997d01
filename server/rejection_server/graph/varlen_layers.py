"""The layers of an encoder in the varlen form, out of operators that onnxruntime has fused CUDA kernels for.

A bias is added where a kernel runs anyway: that of the feed-forward's first product by BiasGelu, those of the products
before a residual sum by SkipLayerNormalization. Only a query's is left: a key's adds the same to all scores of a query,
which softmax does not see, and a value's passes through attention unchanged into the next product. The last layer goes
on with each row's first token alone after its attention: the head reads no other.

Measured on an H200 with 82 million parameters and 8,000 tokens: sums and normalisation as operators of their own take
25% longer, sum and GELU apart another 25%, queries, keys and values by one product and a Split 4%, the last layer on
all tokens 7%.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from rejection_server.graph.float16 import MASKED
from rejection_server.graph.packed_layers import CONTRIB, Nodes
from rejection_server.graph.packed_match import Floats, Norm
from rejection_server.graph.packed_read import Encoder, Layer

_ACTIVATED = {"gelu": "BiasGelu", "gelu_tanh": "FastGelu"}
"""BiasGelu is exact; FastGelu takes the bias, too."""


@dataclass(frozen=True)
class Rows:
    """Names of what tells the tokens of all rows apart: t tokens."""

    ids: str = "gpu_tokens"
    """int64 [t]"""
    positions: str = "varlen_positions"
    """int64 [t]: row of the table of positions."""
    offsets: str = "varlen_token_offset"
    """int32 [rows, columns]: see PackedMultiHeadAttention."""
    cumulative: str = "varlen_cumulative"
    """int32 [rows + 1]: where each row begins among the t, and t."""
    firsts: str = "varlen_firsts"
    """int64 [rows]: each row's first token."""
    distances: str = ""
    """int64 [columns, columns]: column of the table of biases; none without a bias."""


@dataclass(frozen=True)
class VarlenLayers:
    """Writes an encoder's nodes, weights and activations in float32 or float16."""

    nodes: Nodes
    rows: Rows
    heads: int
    float16: bool

    def encoder(self, encoder: Encoder) -> str:
        """The last layer's first tokens, float32 [rows, hidden]."""
        n = self.nodes
        words = n.add("Gather", self._weight("word_table", encoder.words), self.rows.ids)
        positions = n.add("Gather", self._weight("position_table", encoder.positions), self.rows.positions)
        x = self._sum_and_norm(words, positions, None, encoder.norm, "embeddings")
        if encoder.projection is not None:
            x = self._product(x, encoder.projection.weight, "projection")
            x = n.add("Add", x, self._weight("projection_bias", encoder.projection.bias))
        shift = "" if encoder.bias is None else self._bias(encoder.bias)
        for i, layer in enumerate(encoder.layers):
            x = self._layer(layer, x, shift, f"layer{i}", last=i == len(encoder.layers) - 1)
        return n.add("Cast", x, to=TensorProto.FLOAT)

    def _bias(self, by_distance: Floats) -> str:
        """What all attentions add to their scores, [1, heads, columns, columns]."""
        # A mask's infinity, and what of it float16 holds: softmax makes 0 of either.
        table = self._weight("bias_table", np.maximum(by_distance, MASKED))
        of_heads = self.nodes.add("Gather", table, self.rows.distances, axis=1)
        return self.nodes.add("Unsqueeze", of_heads, "gpu_zero_vector")

    def _layer(self, layer: Layer, x: str, shift: str, name: str, *, last: bool) -> str:
        n = self.nodes
        context = self._attention(layer, x, shift, name)
        if last:
            context, x = n.add("Gather", context, self.rows.firsts), n.add("Gather", x, self.rows.firsts)
        bias = layer.out.bias + layer.value.bias @ layer.out.weight
        out = self._product(context, layer.out.weight, f"{name}_out")
        middle = self._sum_and_norm(out, x, bias, layer.attention_norm, f"{name}_middle")
        raised = self._product(middle, layer.up.weight, f"{name}_up")
        bias_up = self._weight(f"{name}_up_bias", layer.up.bias)
        if layer.activation == "relu":
            bent = n.add("Relu", n.add("Add", raised, bias_up))
        else:
            bent = n.add(_ACTIVATED[layer.activation], raised, bias_up, domain=CONTRIB)
        down = self._product(bent, layer.down.weight, f"{name}_down")
        return self._sum_and_norm(down, middle, layer.down.bias, layer.norm, f"{name}_end")

    def _attention(self, layer: Layer, x: str, shift: str, name: str) -> str:
        """What each token gathered, [t, hidden]; `shift`, if any, is added to the scores."""
        n = self.nodes
        parts = {"query": layer.query, "key": layer.key, "value": layer.value}
        query, key, value = (self._product(x, part.weight, f"{name}_{kind}") for kind, part in parts.items())
        query = n.add("Add", query, self._weight(f"{name}_query_bias", layer.query.bias))
        # Keys and values of their own: packed with the queries, short rows would take kernels that not every build has.
        # The root of the width of a head is in the query's weights.
        return n.add(
            "PackedMultiHeadAttention",
            *(query, key, value, "", self.rows.offsets, self.rows.cumulative),
            *([shift] if shift else []),
            domain=CONTRIB,
            num_heads=self.heads,
            scale=1.0,
        )

    def _sum_and_norm(self, x: str, other: str, bias: Floats | None, norm: Norm, name: str) -> str:
        """The normalised sum of x, a bias and what the layer read."""
        gain, shift = self._weight(f"{name}_gain", norm.gain), self._weight(f"{name}_shift", norm.bias)
        constant = [] if bias is None else [self._weight(f"{name}_bias", bias)]
        inputs = (x, other, gain, shift, *constant)
        return self.nodes.add("SkipLayerNormalization", *inputs, domain=CONTRIB, epsilon=norm.epsilon)

    def _product(self, x: str, weight: Floats, name: str) -> str:
        return self.nodes.add("MatMul", x, self._weight(f"{name}_weight", weight))

    def _weight(self, name: str, value: Floats) -> str:
        array: NDArray[Any] = value.astype(np.float16) if self.float16 else value
        return self.nodes.constant(name, array)
