"""The bundled model as others would hold it: float32 weights by their Hugging Face names, out of the committed graph.

Only int8 weights are committed. Here each becomes float32 again: int8 times its scale. So the bundled model's float32
form has the committed model's weights, not those it was trained to; what differs from the served int8 model is the
rounding of activations alone.

`rejection_server.graph.packed` moved constants between the weights, which here move back. Two moves cannot be undone
and change no answer: a key's bias is gone (softmax does not see it), and a value's bias and the embedding of token
type 0 are parts of the sums they were added to.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

Weights = dict[str, NDArray[np.float32]]

_ROOT = np.float32(2**0.5)
_PRODUCT = "MatMulIntegerToFloat"
_TOKEN_TYPES = 2


class DequantizeError(ValueError):
    """The graph is not the packed int8 form of a BERT classifier; the message says what is missing."""


@dataclass(frozen=True)
class Bert:
    """A BERT classifier with GELU (by erf) and a pooler."""

    weights: Weights
    """By their names in a checkpoint of BertForSequenceClassification; linear layers as [outputs, inputs]."""
    heads: int
    epsilon: float
    """Of the layer normalisations."""

    @property
    def hidden(self) -> int:
        """Size of a token's vector."""
        return int(self.weights["bert.embeddings.word_embeddings.weight"].shape[1])

    @property
    def layers(self) -> int:
        """Number of encoder layers."""
        found = {match[1] for name in self.weights if (match := re.match(r"bert\.encoder\.layer\.(\d+)\.", name))}
        return len(found)

    @property
    def labels(self) -> int:
        """Number of labels."""
        return len(self.weights["classifier.bias"])


def read_packed(served: ModelProto) -> Bert:
    """Read the weights of a packed int8 graph, as `rejection_server.graph.packed.to_packed` makes it of a BERT.

    The number of attention heads is the graph's own: its attention nodes have it.

    Raises:
        DequantizeError: It is none.
    """
    loops = [node for node in served.graph.node if node.op_type == "Loop"]
    if len(loops) != 1:
        raise DequantizeError(f"expected one Loop over groups of rows in the served graph, found {len(loops)}")
    body = next(attribute.g for attribute in loops[0].attribute if attribute.name == "body")
    try:
        return _Packed(body).bert()
    except KeyError as exc:
        raise DequantizeError(
            f"the served graph has no tensor {exc}: it is not in the packed int8 form, "
            "which scripts/train and scripts/prepare make"
        ) from exc


def bert_config(bert: Bert, labels: tuple[str, ...]) -> dict[str, object]:
    """`config.json` of the checkpoint."""
    words, hidden = bert.weights["bert.embeddings.word_embeddings.weight"].shape
    return {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": words,
        "hidden_size": hidden,
        "num_hidden_layers": bert.layers,
        "num_attention_heads": bert.heads,
        "intermediate_size": len(bert.weights["bert.encoder.layer.0.intermediate.dense.bias"]),
        "hidden_act": "gelu",
        "max_position_embeddings": len(bert.weights["bert.embeddings.position_embeddings.weight"]),
        "type_vocab_size": _TOKEN_TYPES,
        "layer_norm_eps": bert.epsilon,
        "pad_token_id": 0,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }


class _Packed:
    """The body of the loop: the graph of one group of rows."""

    def __init__(self, body: GraphProto) -> None:
        self.nodes = list(body.node)
        self.tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in body.initializer}
        kinds = {node.op_type for node in self.nodes}
        results = {name for node in self.nodes for name in node.output}
        if _PRODUCT not in kinds:
            raise DequantizeError("the served graph has no integer products: it is not int8")
        if "Erf" not in kinds or "Tanh" not in kinds or "group_is_padding" in results:
            raise DequantizeError("the served graph is no BERT: that has GELU, a pooler, and positions from 0")

    def bert(self) -> Bert:
        positions = self._float("packed_positions")
        weights: Weights = {
            "bert.embeddings.word_embeddings.weight": self._times_scale("packed_words"),
            "bert.embeddings.position_embeddings.weight": positions,
            "bert.embeddings.token_type_embeddings.weight": np.zeros((_TOKEN_TYPES, positions.shape[1]), np.float32),
            **self._norm("bert.embeddings.LayerNorm", "packed_embeddings"),
        }
        heads = self._heads()
        layers = sum(re.fullmatch(r"packed_layer\d+_attention_int8", name) is not None for name in self.tensors)
        for index in range(layers):
            weights |= self._layer(f"bert.encoder.layer.{index}", f"packed_layer{index}", heads)
        weights |= self._head()
        return Bert(weights, heads, self._epsilon())

    def _layer(self, to: str, name: str, heads: int) -> Weights:
        query, key, value = np.split(self._times_scale(f"{name}_attention"), 3, axis=1)
        # The served query is divided by the root of the head's size, which the scores of a plain BERT are.
        size = np.float32((query.shape[1] // heads) ** 0.5)
        nothing = np.zeros(query.shape[1], np.float32)
        up, down = (self._times_scale(f"{name}_{part}") * _ROOT for part in ("up", "down"))
        return {
            **_linear(f"{to}.attention.self.query", query * size, self._float(f"{name}_query_bias") * size),
            **_linear(f"{to}.attention.self.key", key, nothing),
            **_linear(f"{to}.attention.self.value", value, nothing),
            **_linear(
                f"{to}.attention.output.dense", self._times_scale(f"{name}_out"), self._float(f"{name}_out_bias")
            ),
            **self._norm(f"{to}.attention.output.LayerNorm", f"{name}_middle"),
            **_linear(f"{to}.intermediate.dense", up, self._float(f"{name}_up_bias") * _ROOT),
            **_linear(f"{to}.output.dense", down, self._float(f"{name}_down_bias")),
            **self._norm(f"{to}.output.LayerNorm", f"{name}_end"),
        }

    def _head(self) -> Weights:
        """Pooler and classifier: products whose names are the exporter's."""
        products = [n for n in self.nodes if n.op_type == _PRODUCT and not n.input[1].startswith("packed_")]
        if len(products) != 2:
            raise DequantizeError(f"expected a pooler and a classifier after the last layer, found {len(products)}")
        weights: Weights = {}
        for to, product in zip(("bert.pooler.dense", "classifier"), products, strict=True):
            # The product's columns are multiplied by the tokens' scales, then the bias is added.
            add = self._reader(self._reader(product, "Mul"), "Add")
            bias = next((name for name in add.input if name in self.tensors), "")
            weight = self._times_scale(product.input[1].removesuffix("_int8"))
            weights |= _linear(to, weight, self._float(bias))
        return weights

    def _reader(self, node: NodeProto, kind: str) -> NodeProto:
        for other in self.nodes:
            if other.op_type == kind and node.output[0] in other.input:
                return other
        raise DequantizeError(f"expected {kind} after '{node.output[0]}' in the served graph")

    def _heads(self) -> int:
        branches = [a.g for node in self.nodes if node.op_type == "If" for a in node.attribute]
        for node in (node for branch in branches for node in branch.node):
            if node.op_type == "MultiHeadAttention":
                return next(int(a.i) for a in node.attribute if a.name == "num_heads")
        raise DequantizeError("the served graph has no attention of several heads")

    def _epsilon(self) -> float:
        norm = next(node for node in self.nodes if node.op_type == "LayerNormalization")
        attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in norm.attribute}
        # Rounded to float32 in the graph: 1e-12, say, becomes 9.999999960041972e-13.
        return float(f"{attributes['epsilon']:.6g}")

    def _times_scale(self, name: str) -> NDArray[np.float32]:
        values, scale = self.tensors[f"{name}_int8"], self.tensors[f"{name}_scale"]
        return np.asarray(values.astype(np.float32) * scale, np.float32)

    def _float(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self.tensors[name], np.float32)

    def _norm(self, to: str, name: str) -> Weights:
        return {f"{to}.weight": self._float(f"{name}_gain"), f"{to}.bias": self._float(f"{name}_shift")}


def _linear(to: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> Weights:
    return {f"{to}.weight": np.ascontiguousarray(weight.T), f"{to}.bias": bias}
