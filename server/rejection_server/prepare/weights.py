"""Are a model's weights numbers; and those of an ONNX graph taken out and put back, to rewrite the graph alone.

Rewriting copies a graph several times; with hundreds of megabytes of weights inside, memory is what runs out.
"""

from typing import Any

from onnx import ModelProto, TensorProto

from rejection_server.graph.walk import graphs
from rejection_server.prepare.errors import CorruptedError

_SMALL = 1 << 16  # bytes; smaller constants may be read by what rewrites the graph


def detach(model: ModelProto, *, only_tables: bool = False) -> dict[str, TensorProto]:
    """Empty every large constant of `model` in place; returns the constants by name.

    With `only_tables` just those that rows are looked up in, which nobody has to read to rewrite a graph.
    """
    tables = {node.input[0] for graph in graphs(model.graph) for node in graph.node if node.op_type == "Gather"}
    weights = {}
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.ByteSize() < _SMALL or (only_tables and tensor.name not in tables):
                continue
            whole = TensorProto()
            whole.CopyFrom(tensor)
            weights[tensor.name] = whole
            name, kind = tensor.name, tensor.data_type
            tensor.Clear()
            tensor.name, tensor.data_type = name, kind
            # Not of one element at all: a constant of that shape is valid without any content.
            tensor.dims.extend([0, *whole.dims[1:]])
    return weights


def attach(model: ModelProto, weights: dict[str, TensorProto]) -> None:
    """Undo `detach`, wherever the constants have gone; empties `weights`."""
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.name in weights:
                tensor.CopyFrom(weights.pop(tensor.name))


def check_finite(model: Any, name: str) -> None:
    """Raise CorruptedError if a weight of the PyTorch model, read from the file `name`, is NaN or infinite."""
    for weight, values in model.named_parameters():
        finite = values.isfinite()
        if not finite.all():
            wrong = values.numel() - int(finite.sum())
            raise CorruptedError(
                f"{wrong} of the {values.numel()} numbers of {weight} in {name} are NaN or infinite: the model is "
                "damaged, or its training failed"
            )
