"""Reads the weights of a BERT-like classifier (BERT, RoBERTa, DistilBERT, ALBERT, MPNet) out of its ONNX graph.

onnxruntime first brings the graph into one spelling (constants folded, normalisations and GELU as single operators).
Then each attention is found by its softmax, and what follows it by the data flow. What was read is a proposal: who
builds a graph from it compares its answers with the original's.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from rejection_server.graph.packed_match import MOVES, SCALES, Activation, Blocks, Floats, Linear, Norm
from rejection_server.graph.rows import LOGITS
from rejection_server.graph.walk import GraphError
from rejection_server.wording import one_line

_ONE_SPELLING = (  # fusions that would only add spellings to recognise
    "AttentionFusion",
    "EmbedLayerNormFusion",
    "SkipLayerNormFusion",
    "BiasGeluFusion",
    "BiasSoftmaxFusion",
    "FastGeluFusion",
    "MatMulAddFusion",
    "MatMulScaleFusion",
    "MatmulTransposeFusion",
    "MatMulActivationFusion",
    "GemmActivationFusion",
    "GeluApproximation",
)
_ROW_IDS = 40  # tokens of the probe that shows how positions are numbered


@dataclass(frozen=True)
class Layer:
    """One encoder layer; normalisation follows each residual sum."""

    query: Linear
    key: Linear
    value: Linear
    out: Linear
    attention_norm: Norm
    up: Linear
    activation: Activation
    down: Linear
    norm: Norm


@dataclass(frozen=True)
class Encoder:
    """A classifier: embeddings, layers, and the head as the nodes of the graph it was read from."""

    words: Floats
    """[vocabulary, width]"""
    positions: Floats
    """[positions, width], from the first token's on, the embedding of token type 0 added."""
    padding_id: int | None
    """Token that takes the row before the first of `positions` and no number (RoBERTa); None numbers every token."""
    padding_position: Floats
    """[width]: that row."""
    norm: Norm
    projection: Linear | None
    """From the width of embeddings to that of the layers (ALBERT, small ELECTRA); None where it is the same."""
    layers: tuple[Layer, ...]
    bias: Floats | None
    """[heads or 1, 2 * positions - 1]: what attention adds to a score, in every layer, by how far the key is behind the
    query, from 1 - positions on (MPNet); None where it adds nothing."""
    head: tuple[NodeProto, ...]
    """From `hidden`, the last layer's [rows, 1, hidden], to `logits`; they see the first token of each row."""
    head_weights: tuple[onnx.TensorProto, ...]
    hidden: str
    logits: str

    @property
    def hidden_size(self) -> int:
        """Width of the layers."""
        return int(self.layers[0].query.weight.shape[0])


def read_encoder(model: ModelProto, heads: int) -> Encoder:
    """Recognise ``model``, a classifier of ``heads`` attention heads; raises GraphError, which says what is amiss."""
    encoder = _Reader(_in_one_spelling(model)).encoder()
    hidden = encoder.hidden_size
    if heads < 1 or hidden % heads:
        raise GraphError(f"{hidden} hidden values cannot be split among {heads} attention heads")
    if encoder.bias is None:
        return encoder
    if len(encoder.bias) not in (1, heads):
        raise GraphError(f"attention adds a bias for {len(encoder.bias)} heads, and there are {heads}")
    return replace(encoder, bias=np.repeat(encoder.bias, heads // len(encoder.bias), axis=0))


def _in_one_spelling(model: ModelProto) -> ModelProto:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=list(_ONE_SPELLING),
            )
        except Exception as exc:  # onnxruntime raises nothing narrower
            raise GraphError(f"onnxruntime cannot read the model: {one_line(exc, 200)}") from exc
        return onnx.load(path)


class _Reader:
    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.blocks = Blocks(model.graph)
        self.added: list[list[tuple[str, float]]] = []  # to the scores of each attention, mask and bias, and how often

    def encoder(self) -> Encoder:
        softmaxes = [node for node in self.graph.node if node.op_type == "Softmax"]
        if not softmaxes:
            raise GraphError("the model has no attention")
        first = self._attention(softmaxes[0])[0]
        self.added.clear()
        layers, hidden = [], first
        for softmax in softmaxes:
            layer, after = self._layer(softmax, hidden)
            layers.append(layer)
            hidden = after
        normed, projection = first, None
        if self.blocks.producer(first).op_type != "LayerNormalization":
            normed, projection = self.blocks.linear_behind(first)
        words, positions, padding_id, padding_position = self._embeddings(normed)
        logits = self._logits()
        head = self._head(hidden, logits)
        used = {name for node in head for name in node.input}
        weights = []
        for name in sorted(used & set(self.blocks.constants)):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(self.blocks.constants[name])
            tensor.name = name
            weights.append(tensor)
        return Encoder(
            words=words,
            positions=positions,
            padding_id=padding_id,
            padding_position=padding_position,
            norm=self.blocks.norm(self.blocks.producer(normed, "LayerNormalization")),
            projection=projection,
            layers=tuple(layers),
            bias=self._bias(len(positions)),
            head=head,
            head_weights=tuple(weights),
            hidden=hidden,
            logits=logits,
        )

    def _attention(self, softmax: NodeProto) -> tuple[str, Linear, Linear, Linear, str]:
        scores, factor = softmax.input[0], 1.0
        added: list[tuple[str, float]] = []
        while (node := self.blocks.producer(scores)).op_type != "MatMul":
            if node.op_type not in ("Add", "Where", *SCALES, *MOVES):
                raise GraphError(f"the attention scores come from {node.op_type}, not from a product")
            if node.op_type in SCALES and self.blocks.is_number(node.input[1]):
                number = float(self.blocks.array(node.input[1]).reshape(-1)[0])
                factor *= number if node.op_type == "Mul" else 1 / number
            before = [name for name in node.input if self.blocks.leads_to_product(name)]
            if len(before) != 1:
                raise GraphError("the attention scores are no masked product")
            scores = before[0]
            if node.op_type == "Add":
                added += [(name, factor) for name in node.input if name != scores]
        self.added.append(added)
        query_of, query = self.blocks.linear_behind(node.input[0])
        key_of, key = self.blocks.linear_behind(node.input[1])
        weights = softmax.output[0]
        guards = [node for node in self.blocks.consumers.get(weights, []) if node.op_type == "Where"]
        if guards:  # some exporters replace the NaN of rows that are masked completely
            weights = guards[0].output[0]
        product = self.blocks.consumer(weights, "MatMul")
        value_of, value = self.blocks.linear_behind(product.input[1])
        if not query_of == key_of == value_of:
            raise GraphError("queries, keys and values are made of different tensors")
        small = np.float32(factor)
        return query_of, Linear(query.weight * small, query.bias * small), key, value, product.output[0]

    def _layer(self, softmax: NodeProto, hidden: str) -> tuple[Layer, str]:
        of, query, key, value, context = self._attention(softmax)
        if of != hidden:
            raise GraphError("an attention does not read the layer before it")
        out, attended = self.blocks.linear_after(context)
        attention_norm, middle = self.blocks.residual(attended, hidden)
        up, raised = self.blocks.linear_after(middle)
        activation, bent = self.blocks.activation(raised)
        down, lowered = self.blocks.linear_after(bent)
        norm, after = self.blocks.residual(lowered, middle)
        return Layer(query, key, value, out, attention_norm, up, activation, down, norm), after

    def _embeddings(self, normed: str) -> tuple[Floats, Floats, int | None, Floats]:
        lookups, kind = self._lookups(normed)
        try:
            numbers = self._probe([node.input[1] for node in lookups])
        except Exception as exc:  # onnxruntime raises nothing narrower
            reason = one_line(exc, 200)
            raise GraphError(f"what the embeddings are looked up by cannot be found out: {reason}") from exc
        words: Floats | None = None
        table: Floats | None = None
        padding_id: int | None = None
        start = 0
        for node, (plain, padded, ids, pad) in zip(lookups, numbers, strict=True):
            weight = self.blocks.array(node.input[0])
            steps = np.arange(plain.size) + (plain[0] if plain.size else 0)
            if np.array_equal(plain, ids) and words is None:
                words = weight
            elif plain.size in (1, ids.size) and not np.any(plain):
                kind = weight[0]
            elif np.array_equal(plain, steps) and table is None:
                table, start = weight, int(plain[0])
                if not np.array_equal(padded, plain):
                    padding_id = pad
            else:
                raise GraphError("an embedding is numbered neither by words nor by positions nor by token types")
        if words is None or table is None:
            raise GraphError("the embeddings of words and positions are not both there")
        folded = table if kind is None else table + kind
        return words, folded[start:], padding_id, folded[start - 1] if start else folded[0]

    def _lookups(self, normed: str) -> tuple[list[NodeProto], Floats | None]:
        """The lookups of whose sum `normed` is made, and the embedding of token type 0 if it was looked up before."""
        lookups = []
        pending = [self.blocks.producer(normed, "LayerNormalization").input[0]]
        kind: Floats | None = None
        while pending:
            name = pending.pop()
            if name in self.blocks.constants:
                kind = self.blocks.array(name)
                if kind.size != kind.shape[-1]:
                    raise GraphError("the embeddings' sum holds a constant that is no vector")
                kind = kind.reshape(-1)
                continue
            node = self.blocks.producer(name)
            if node.op_type == "Add":
                pending += node.input
            elif node.op_type == "Gather" and node.input[0] in self.blocks.constants:
                lookups.append(node)
            elif node.op_type in ("Expand", "Unsqueeze", "Identity"):
                pending.append(node.input[0])
            else:
                raise GraphError(f"the embeddings are no plain sum: {node.op_type}")
        return lookups, kind

    def _probe(self, names: list[str]) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any], int]]:
        """What the embedding tables are asked for: by plain ids, and by ids with each low id in the middle."""
        made = self._computed(names)

        def ask(ids: NDArray[np.int64]) -> list[NDArray[Any]]:
            return [value.reshape(-1) for value in made(ids)]

        ids = _ids(_ROW_IDS)
        plain = ask(ids)
        for pad in range(7):  # padding ids of all tokenizers known are among the first
            changed = ids.copy()
            changed[_ROW_IDS // 2] = pad
            other = ask(changed)
            differs = [not np.array_equal(a, b) for a, b, name in zip(plain, other, names, strict=True)]
            if sum(differs) > 1:
                break
        else:
            pad, other = -1, plain
        return [(a, b, ids, pad) for a, b in zip(plain, other, strict=True)]

    def _bias(self, longest: int) -> Floats | None:
        """What attention adds to the scores of a row without padding, see `Encoder.bias`."""
        first, *others = (self._sum_of(added, _ROW_IDS) for added in self.added)
        if any(not np.array_equal(first, other) for other in others):
            raise GraphError("the layers' attentions add different biases")
        if not first.any():  # masks alone
            return None
        square = self._sum_of(self.added[0], longest)
        if square.ndim != 4 or square.shape[0] != 1 or square.shape[2:] != (longest, longest):
            raise GraphError("attention adds what is no bias for pairs of tokens")
        by_distance: Floats = np.concatenate([square[0, :, :0:-1, 0], square[0, :, 0]], axis=1)
        places = np.arange(longest)
        if not np.array_equal(square[0], by_distance[:, places - places[:, None] + longest - 1]):
            raise GraphError("attention adds a bias that not the distance alone decides")
        return by_distance

    def _sum_of(self, added: list[tuple[str, float]], tokens: int) -> Floats:
        zero = np.zeros((1, 1, 1, 1), np.float32)
        if not any(name in self.blocks.producers for name, _ in added):  # a mask that chooses, or none
            return zero
        values = self._computed([name for name, _ in added])(_ids(tokens))
        return sum((value * np.float32(factor) for value, (_, factor) in zip(values, added, strict=True)), zero)

    def _computed(self, names: list[str]) -> Callable[[NDArray[np.int64]], list[NDArray[Any]]]:
        """What gives the graph's values of these names for a row of ids; they are made without a matrix product."""
        outputs = [name for name in dict.fromkeys(names) if name in self.blocks.producers]
        wanted = set(outputs)
        nodes: list[NodeProto] = []
        for node in reversed(self.graph.node):
            if wanted & set(node.output):
                if node.op_type in ("MatMul", "Gemm"):
                    raise GraphError("positions or attention scores depend on what the model makes of a text")
                nodes.append(node)
                wanted |= set(node.input)
        # Without the weights, which would be held three times over.
        graph = helper.make_graph(
            list(reversed(nodes)),
            "part",
            list(self.graph.input),
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [tensor for tensor in self.graph.initializer if tensor.name in wanted],
        )
        model = helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        runner = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

        def made(ids: NDArray[np.int64]) -> list[NDArray[Any]]:
            feed = {"input_ids": ids[None], "attention_mask": np.ones((1, ids.size), np.int64)}
            feed["token_type_ids"] = np.zeros((1, ids.size), np.int64)
            given = {value.name for value in runner.get_inputs()}
            results = runner.run(None, {name: value for name, value in feed.items() if name in given})
            values = dict(zip(outputs, results, strict=True))
            values |= feed  # a table may be looked up by an input as it is
            values |= {name: self.blocks.array(name) for name in names if name in self.blocks.constants}
            return [np.asarray(values[name]) for name in names]

        return made

    def _head(self, hidden: str, logits: str) -> tuple[NodeProto, ...]:
        wanted: set[str] = {logits}
        nodes: list[NodeProto] = []
        for node in reversed(self.graph.node):
            if wanted & set(node.output) and not set(node.output) & {hidden} and node.op_type != "Constant":
                nodes.append(node)
                wanted |= {name for name in node.input if name not in (hidden, *self.blocks.constants)}
        given = {value.name for value in self.graph.input} & wanted
        if given:
            raise GraphError(f"the head reads more than the last layer: {', '.join(sorted(given))}")
        return tuple(reversed(nodes))

    def _logits(self) -> str:
        names = [value.name for value in self.graph.output]
        return LOGITS if LOGITS in names else names[0]


def _ids(tokens: int) -> NDArray[np.int64]:
    """A row of ids, none of which is special."""
    return 7 + np.arange(tokens, dtype=np.int64) * 3 % 89
