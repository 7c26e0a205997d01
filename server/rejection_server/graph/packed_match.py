"""Recognises the building blocks of an encoder in an ONNX graph: linear layers, norms, residual sums, activations.

The graph is followed along its data flow, through nodes that only move values; names play no part.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

from rejection_server.graph.walk import GraphError

Floats = NDArray[np.float32]
Activation = Literal["gelu", "gelu_tanh", "relu"]

MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast")
SCALES = ("Mul", "Div")
_ACTIVATIONS: dict[str, Activation] = {
    "Gelu": "gelu",
    "Erf": "gelu",
    "FastGelu": "gelu_tanh",
    "Tanh": "gelu_tanh",
    "Relu": "relu",
}
_ACTIVATION_NODES = 12  # GELU written out takes at most eight kinds


@dataclass(frozen=True)
class Linear:
    """y = x @ weight + bias."""

    weight: Floats
    """[inputs, outputs]"""
    bias: Floats
    """[outputs]"""


@dataclass(frozen=True)
class Norm:
    """Layer normalisation."""

    gain: Floats
    bias: Floats
    epsilon: float


class Blocks:
    """A graph's nodes by what they make and read, and the blocks they form; what does not fit raises GraphError."""

    def __init__(self, graph: GraphProto) -> None:
        """Index the graph; `constants` are its initializers and what its Constant nodes make."""
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                value = helper.get_attribute_value(node.attribute[0])
                tensor = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value))
                self.constants[node.output[0]] = tensor
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def linear_behind(self, name: str) -> tuple[str, Linear]:
        """The linear layer that made a value which was then moved (and maybe scaled), and what it reads."""
        bias: Floats | None = None
        factor = 1.0
        while True:
            node = self.producer(name)
            if node.op_type in MOVES:
                name = node.input[0]
            elif node.op_type in SCALES and self.is_number(node.input[1]):
                number = float(self.array(node.input[1]).reshape(-1)[0])
                factor *= number if node.op_type == "Mul" else 1 / number
                name = node.input[0]
            elif node.op_type == "Add" and bias is None:
                constant = next((n for n in node.input if n in self.constants), None)
                if constant is None:
                    raise GraphError("queries, keys or values are a sum of two activations")
                bias = self.array(constant) * factor
                name = next(n for n in node.input if n != constant)
            else:
                weight, own = self._weights(node)
                bias = own * factor if bias is None else bias
                return node.input[0], Linear(weight * np.float32(factor), bias.astype(np.float32).reshape(-1))

    def linear_after(self, name: str) -> tuple[Linear, str]:
        """The linear layer that reads a value (moved, maybe), and its result."""
        while True:
            nodes = self.consumers.get(name, [])
            linear = [node for node in nodes if node.op_type in ("MatMul", "Gemm") and node.input[1] in self.constants]
            if linear:
                break
            moves = [node for node in nodes if node.op_type in MOVES]
            if len(moves) != 1:
                raise GraphError("a linear layer was expected and is not there")
            name = moves[0].output[0]
        if len(linear) > 1:
            raise GraphError("one linear layer was expected and there are several")
        weight, bias = self._weights(linear[0])
        result = linear[0].output[0]
        add = [node for node in self.consumers.get(result, []) if node.op_type == "Add"]
        constant = [n for node in add for n in node.input if n in self.constants]
        if constant:
            return Linear(weight, bias + self.array(constant[0]).astype(np.float32)), add[0].output[0]
        return Linear(weight, bias), result

    def _weights(self, node: NodeProto) -> tuple[Floats, Floats]:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in self.constants:
            raise GraphError(f"a linear layer was expected, {node.op_type} found")
        weight = self.array(node.input[1])
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if (
            weight.ndim != 2
            or weight.dtype != np.float32
            or attributes.get("transA")
            or attributes.get("alpha", 1) != 1
        ):
            raise GraphError("a linear layer is not a plain float32 matrix product")
        weight = weight.T if attributes.get("transB") else weight
        bias = np.zeros(weight.shape[1], np.float32)
        if len(node.input) > 2 and node.input[2]:
            bias = self.array(node.input[2]).astype(np.float32) * np.float32(attributes.get("beta", 1))
        return np.ascontiguousarray(weight), bias.reshape(-1)

    def residual(self, name: str, other: str) -> tuple[Norm, str]:
        """The normalised sum of a layer's result and what the layer read, and its result."""
        add = self.consumer(name, "Add")
        if set(add.input) != {name, other}:
            raise GraphError("a layer's residual sum does not add what it read")
        norm = self.consumer(add.output[0], "LayerNormalization")
        return self.norm(norm), norm.output[0]

    def norm(self, node: NodeProto) -> Norm:
        """A LayerNormalization's weights."""
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        gain = self.array(node.input[1])
        bias = self.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros_like(gain)
        return Norm(gain, bias, epsilon)

    def activation(self, name: str) -> tuple[Activation, str]:
        """What lies between a linear layer and the next, by its characteristic operator, and its result."""
        kinds: set[str] = set()
        pending, result = [name], name
        while pending:
            for node in self.consumers.get(pending.pop(), []):
                if node.op_type in ("MatMul", "Gemm"):
                    result = node.input[0]
                elif len(kinds) < _ACTIVATION_NODES:
                    approximate = next((a.s for a in node.attribute if a.name == "approximate"), b"none")
                    kinds.add("FastGelu" if approximate == b"tanh" else node.op_type)
                    pending += node.output
        for kind, activation in _ACTIVATIONS.items():
            if kind in kinds:
                return activation, result
        raise GraphError(f"the activation is none of GELU and ReLU but made of {', '.join(sorted(kinds))}")

    def leads_to_product(self, name: str) -> bool:
        """Whether the value is made by a product of two activations, moved or scaled: the scores, not the mask."""
        node = self.producers.get(name)
        if node is None or node.op_type == "MatMul":
            return node is not None
        if node.op_type == "Add":
            return any(self.leads_to_product(added) for added in node.input)
        return node.op_type in (*SCALES, *MOVES) and self.leads_to_product(node.input[0])

    def producer(self, name: str, kind: str | None = None) -> NodeProto:
        """The node that makes a value."""
        node = self.producers.get(name)
        if node is None or (kind and node.op_type != kind):
            raise GraphError(
                f"expected {kind or 'a node'} before '{name}', found {node.op_type if node else 'nothing'}"
            )
        return node

    def consumer(self, name: str, kind: str) -> NodeProto:
        """The one node of that kind that reads a value."""
        nodes = [node for node in self.consumers.get(name, []) if node.op_type == kind]
        if len(nodes) != 1:
            raise GraphError(f"expected one {kind} after '{name}', found {len(nodes)}")
        return nodes[0]

    def is_number(self, name: str) -> bool:
        """Whether the value is a constant with one element."""
        return name in self.constants and int(np.prod(self.constants[name].dims)) == 1

    def array(self, name: str) -> NDArray[Any]:
        """A constant's value."""
        if name not in self.constants:
            raise GraphError(f"'{name}' was expected to be a constant")
        array: NDArray[Any] = numpy_helper.to_array(self.constants[name])
        return array
