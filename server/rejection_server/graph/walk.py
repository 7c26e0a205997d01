"""What every rewriting of a model needs: its graphs, subgraphs included, the traces of exporters gone, and an error."""

from collections.abc import Iterator

import onnx
from onnx import GraphProto


class GraphError(ValueError):
    """The ONNX model is not a classifier that can be given the wanted form; the message says why."""


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and all graphs inside it, such as the bodies of loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def drop_traces(graph: GraphProto) -> None:
    """Remove, in place, what an exporter leaves behind and nobody who serves the model needs."""
    del graph.value_info[:]  # shapes of the example inputs; the runtime infers its own
    for node in graph.node:  # traces of the exporting machine's source files
        del node.metadata_props[:]
        node.doc_string = ""
