"""Takes the weights out of an ONNX graph and puts them back, so that the graph alone can be rewritten.

Rewriting copies a graph several times; with hundreds of megabytes of weights inside, memory is what runs out.
"""

from onnx import ModelProto, TensorProto

from rejection_server.graph.walk import graphs

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
