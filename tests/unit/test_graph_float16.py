"""What float16 must not change: integers that are made by way of floats."""

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from rejection_server.graph.float16 import to_float16

DISTANCES = np.arange(1, 513, dtype=np.int64)[None]


def bucketed() -> ModelProto:
    """An embedding of distances by logarithmic buckets, as models with relative positions have."""
    nodes = parser.parse_graph(
        """g (float x) => (float x) {
            near = Constant<value_float=8.0>()
            steepness = Constant<value_float=2.8853900817779268>()
            as_float = Cast<to=1>(input_ids)
            share = Div(as_float, near)
            logarithm = Log(share)
            scaled = Mul(logarithm, steepness)
            bucket = Cast<to=7>(scaled)
            positive = Max(bucket, none)
            found = Gather(table, positive)
            logits = Add(found, found)
        }"""
    ).node
    table = np.arange(64, dtype=np.float32)[:, None]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "bucketed",
        [value("input_ids", TensorProto.INT64, ["rows", "tokens"])],
        [value("logits", TensorProto.FLOAT, ["rows", "tokens", 1])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.int64(0), "none")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def answers(model: ModelProto) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """As the graph is written: what an optimiser leaves out differs from processor to GPU."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return np.asarray(session.run(["logits"], {"input_ids": DISTANCES})[0])


def test_integers_are_those_of_float32() -> None:
    converted = to_float16(bucketed())
    np.testing.assert_array_equal(answers(converted), answers(bucketed()))
    kinds = {tensor.name: tensor.data_type for tensor in converted.graph.initializer}
    assert kinds["table"] == TensorProto.FLOAT16, "the rest is float16"


@pytest.mark.parametrize("masked", [-np.inf, float(np.finfo(np.float32).min)], ids=["infinite", "least"])
def test_two_masks_add_up_to_a_number(masked: float) -> None:
    """A row that both of them mask altogether would be NaN, and by 0 times NaN all others, too."""
    model = bucketed()
    model.graph.initializer.append(numpy_helper.from_array(np.float32(masked), "mask"))
    model.graph.node[-1].input[1] = "mask"
    (mask,) = (tensor for tensor in to_float16(model).graph.initializer if tensor.name == "mask")
    kept = numpy_helper.to_array(mask)
    assert kept.dtype == np.float16
    assert np.isfinite(kept + kept)
    assert np.exp(kept) == 0


def test_a_value_whose_shape_alone_is_read_is_float16_and_each_cast_stands_once() -> None:
    """As in the spelled-out normalisation of older exports, where two nodes read what makes the next shape."""
    model = bucketed()
    model.graph.node.extend(
        parser.parse_graph(
            """g (float x) => (float x) {
                doubled = Mul(logits, logits)
                dims = Shape(doubled)
                dims_as_float = Cast<to=1>(dims)
                dims_again = Cast<to=7>(dims_as_float)
                reshaped = Reshape(doubled, dims_again)
                twice = Sub(logarithm, scaled)
                again = Cast<to=7>(twice)
            }"""
        ).node
    )
    model.graph.output.append(helper.make_tensor_value_info("reshaped", TensorProto.FLOAT, ["rows", "tokens", 1]))
    converted = to_float16(model)
    (makes_doubled,) = (node for node in converted.graph.node if "doubled" in node.output)
    assert makes_doubled.op_type == "Mul", "computed in float16, not brought to it"
    written = [name for node in converted.graph.node for name in node.output]
    assert len(written) == len(set(written))
    onnxruntime.InferenceSession(converted.SerializeToString())
