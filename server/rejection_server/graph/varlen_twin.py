"""A varlen graph for processors: each attention operator, which only GPUs have, replaced by a loop over the rows."""

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from rejection_server.graph.packed_layers import CONTRIB, Nodes

ATTENTION = "PackedMultiHeadAttention"


def cpu_twin(model: ModelProto) -> ModelProto:
    """A copy of a varlen model that a processor runs: equal in every node but those of attention.

    A twin computes attention in float32, as the GPU's kernels accumulate.
    """
    twin = ModelProto()
    twin.CopyFrom(model)
    del twin.graph.node[:]
    for node in model.graph.node:
        twin.graph.node.extend(_attention(node) if node.op_type == ATTENTION else [node])
    return twin


def _attention(node: NodeProto) -> list[NodeProto]:
    """Nodes that make the same out of the same as a PackedMultiHeadAttention with queries, keys and values apart."""
    query, key, value, _, _, cumulative, *shift = node.input
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    n = Nodes(f"twin_of_{node.name}")
    parts = [n.add("Cast", part, to=TensorProto.FLOAT) for part in (query, key, value)]
    bounds = n.add("Cast", cumulative, to=TensorProto.INT64)
    rows = n.add("Sub", n.add("Squeeze", n.add("Shape", bounds)), n.add("Constant", value_int=1))
    shifts = [n.add("Cast", name, to=TensorProto.FLOAT) for name in shift]
    body = _one_row(f"{n.prefix}_row", (parts, shifts), bounds, attributes)
    found = n.add("Loop", rows, "", n.add("SequenceEmpty", dtype=TensorProto.FLOAT), body=body)
    joined = n.add("ConcatFromSequence", found, axis=0)
    # Back to the type that the queries have.
    n.nodes.append(helper.make_node("CastLike", [joined, query], list(node.output), name=f"{n.prefix}_as_given"))
    return n.nodes


def _one_row(
    prefix: str, given: tuple[list[str], list[str]], bounds: str, attributes: dict[str, int | float]
) -> GraphProto:
    n = Nodes(prefix)
    index, go, seen = (f"{prefix}_{part}" for part in ("index", "go", "seen"))
    following = n.add("Add", index, n.constant("one", np.int64(1)))
    limits = [n.add("Unsqueeze", n.add("Gather", bounds, at), n.ints(0)) for at in (index, following)]
    parts, shifts = given
    rows = [n.add("Unsqueeze", n.add("Slice", part, *limits, n.ints(0)), n.ints(0)) for part in parts]
    count = n.add("Sub", limits[1], limits[0])
    corner = n.add("Concat", count, count, axis=0)
    shifts = [n.add("Slice", shift, n.ints(0, 0), corner, n.ints(2, 3)) for shift in shifts]
    optional = ["", "", *shifts] if shifts else []
    mixed = n.add("MultiHeadAttention", *rows, *optional, domain=CONTRIB, **attributes)
    outputs = [n.add("Identity", go), n.add("SequenceInsert", seen, n.add("Squeeze", mixed, n.ints(0)))]
    tensor, sequence = helper.make_tensor_value_info, helper.make_tensor_sequence_value_info
    return helper.make_graph(
        n.nodes,
        "attention_of_one_row",
        [
            tensor(index, TensorProto.INT64, []),
            tensor(go, TensorProto.BOOL, []),
            sequence(seen, TensorProto.FLOAT, None),
        ],
        [tensor(outputs[0], TensorProto.BOOL, []), sequence(outputs[1], TensorProto.FLOAT, None)],
        list(n.initializers.values()),
    )
