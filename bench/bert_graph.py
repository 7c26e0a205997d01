"""A BERT classifier as a plain padded ONNX graph, as an exporter writes it: what others serve, and what is prepared.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2018, with the token type always 0: attention is
written out with an additive mask, GELU by erf, and the pooler takes each row's first token.
"""

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from bench.dequantize import Bert
from rejection_server.graph.packed_layers import Nodes

_OPSET = 18
_IR_VERSION = 9


def padded_float32(bert: Bert) -> ModelProto:
    """The graph: `input_ids` and `attention_mask`, int64 [rows, tokens], to `logits`, float32 [rows, labels]."""
    value = helper.make_tensor_value_info
    nodes = _Writer(bert).write()
    graph = helper.make_graph(
        nodes.nodes,
        "classifier",
        [value(name, TensorProto.INT64, ["rows", "tokens"]) for name in ("input_ids", "attention_mask")],
        [value("logits", TensorProto.FLOAT, ["rows", bert.labels])],
        list(nodes.initializers.values()),
    )
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(result)
    return result


class _Writer:
    def __init__(self, bert: Bert) -> None:
        self.bert = bert
        self.nodes = Nodes("bert")

    def write(self) -> Nodes:
        n = self.nodes
        mask = self._mask()
        x = self._embeddings()
        for index in range(self.bert.layers):
            x = self._layer(f"bert.encoder.layer.{index}", x, mask)
        first = n.add("Gather", x, n.constant("first", np.int64(0)), axis=1)
        pooled = n.add("Tanh", self._linear("bert.pooler.dense", first))
        n.nodes.append(helper.make_node("Identity", [self._linear("classifier", pooled)], ["logits"]))
        return n

    def _mask(self) -> str:
        """[rows, 1, 1, tokens]: 0 for a token, the lowest number for padding."""
        n = self.nodes
        real = n.add("Cast", n.add("Unsqueeze", "attention_mask", n.ints(1, 2)), to=TensorProto.FLOAT)
        padding = n.add("Sub", n.constant("one", np.float32(1)), real)
        return n.add("Mul", padding, n.constant("lowest", np.finfo(np.float32).min))

    def _embeddings(self) -> str:
        n = self.nodes
        words = n.add("Gather", self._weight("bert.embeddings.word_embeddings.weight"), "input_ids")
        tokens = n.add("Gather", n.add("Shape", "input_ids"), n.constant("tokens_axis", np.int64(1)))
        zero, one = n.constant("start", np.int64(0)), n.constant("step", np.int64(1))
        numbers = n.add("Unsqueeze", n.add("Range", zero, tokens, one), n.ints(0))
        positions = n.add("Gather", self._weight("bert.embeddings.position_embeddings.weight"), numbers)
        kind = n.constant("token_type_0", self.bert.weights["bert.embeddings.token_type_embeddings.weight"][0])
        return self._norm("bert.embeddings.LayerNorm", n.add("Add", n.add("Add", words, kind), positions))

    def _layer(self, name: str, x: str, mask: str) -> str:
        n = self.nodes
        context = self._attention(f"{name}.attention.self", x, mask)
        attended = n.add("Add", self._linear(f"{name}.attention.output.dense", context), x)
        middle = self._norm(f"{name}.attention.output.LayerNorm", attended)
        raised = self._gelu(self._linear(f"{name}.intermediate.dense", middle))
        return self._norm(
            f"{name}.output.LayerNorm", n.add("Add", self._linear(f"{name}.output.dense", raised), middle)
        )

    def _attention(self, name: str, x: str, mask: str) -> str:
        n, heads, size = self.nodes, self.bert.heads, self.bert.hidden // self.bert.heads
        query, key, value = (
            n.add(
                "Transpose",
                n.add("Reshape", self._linear(f"{name}.{part}", x), n.ints(0, 0, heads, size)),
                perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3],
            )
            for part in ("query", "key", "value")
        )
        scores = n.add("Div", n.add("MatMul", query, key), n.constant("root_of_size", np.float32(size**0.5)))
        weights = n.add("Softmax", n.add("Add", scores, mask), axis=-1)
        mixed = n.add("Transpose", n.add("MatMul", weights, value), perm=[0, 2, 1, 3])
        return n.add("Reshape", mixed, n.ints(0, 0, heads * size))

    def _gelu(self, x: str) -> str:
        n = self.nodes
        bent = n.add("Erf", n.add("Div", x, n.constant("root_2", np.float32(2**0.5))))
        share = n.add("Add", bent, n.constant("one", np.float32(1)))
        return n.add("Mul", n.add("Mul", x, share), n.constant("half", np.float32(0.5)))

    def _linear(self, name: str, x: str) -> str:
        n = self.nodes
        weight = n.constant(f"{name}.weight", np.ascontiguousarray(self.bert.weights[f"{name}.weight"].T))
        return n.add("Add", n.add("MatMul", x, weight), self._weight(f"{name}.bias"))

    def _norm(self, name: str, x: str) -> str:
        gain, shift = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self.nodes.add("LayerNormalization", x, gain, shift, axis=-1, epsilon=self.bert.epsilon)

    def _weight(self, name: str) -> str:
        return self.nodes.constant(name, self.bert.weights[name])
