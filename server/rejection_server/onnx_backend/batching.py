"""From the inputs of several requests to one onnxruntime call, and back to each request's outputs.

An *item* is one request's inputs by name. Row counts and shapes include the batch dimension, which is the first of
every tensor when the model's `max_batch_size` is above 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from rejection_server.onnx_backend.config import BatchInput, ModelConfig
from rejection_server.onnx_backend.tensor_types import TensorInfo

Array = npt.NDArray[Any]
Arrays = tuple[Array, ...]
Item = Mapping[str, Array]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class OutputPlan:
    """How one output is handed to its requests."""

    name: str
    dims: Shape
    """The configured shape of one item, -1 where it varies."""
    source_input: str | None
    """Input whose shape each request's share takes; None where shares are rows."""


@dataclass(frozen=True)
class BatchPlan:
    """Everything about merging and splitting that does not change between calls."""

    batching: bool
    ragged: frozenset[str]
    scalars: frozenset[str]
    batch_inputs: tuple[BatchInput, ...]
    outputs: tuple[OutputPlan, ...]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in the order in which `split` expects and returns them."""
        return [output.name for output in self.outputs]


def row_count(item: Item) -> int:
    """Rows of an item with at least one input, where the first dimension is the batch dimension."""
    return int(next(iter(item.values())).shape[0])


def make_plan(config: ModelConfig, inputs: Mapping[str, TensorInfo]) -> BatchPlan:
    """Derive the plan from a checked configuration and the model's inputs."""
    return BatchPlan(
        batching=config.max_batch_size > 0,
        ragged=frozenset(tensor.name for tensor in config.inputs if tensor.ragged),
        scalars=frozenset(name for name, info in inputs.items() if not info.shape),
        batch_inputs=config.batch_inputs,
        outputs=tuple(
            OutputPlan(output.name, output.dims, config.scattered_outputs.get(output.name)) for output in config.outputs
        ),
    )


def merge(plan: BatchPlan, items: Sequence[Item]) -> dict[str, Array]:
    """Make onnxruntime's inputs from one or more items.

    Ragged inputs become one dimension with the elements of all items in order; other inputs are joined along their
    first dimension; batch inputs are added. A single item is passed on without a copy.

    Raises:
        ValueError: The items' shapes do not fit together.
        KeyError: An item lacks an input that the first one has.
    """
    feed = {}
    for name in items[0]:
        ragged = name in plan.ragged
        parts = [item[name].reshape(-1) for item in items] if ragged else [item[name] for item in items]
        tensor = parts[0] if len(parts) == 1 else np.concatenate(parts)
        feed[name] = tensor.reshape(()) if name in plan.scalars else tensor
    for batch_input in plan.batch_inputs:
        source = batch_input.source_input
        tensor = batch_input_tensor(batch_input.kind, batch_input.dtype, [item[source].shape for item in items])
        for target in batch_input.target_names:
            feed[target] = tensor
    return feed


def batch_input_tensor(kind: str, dtype: str, shapes: Sequence[Shape]) -> Array:
    """Make a batch input from the shapes, one a request, that its source input has in this batch.

    Args:
        kind: A kind of Triton's `BatchInput`; its counts are per request, its item shapes per row.
        dtype: numpy name of the element type.
        shapes: The source input's shapes with the batch dimension, one for each of the N requests.

    Returns:
        BATCH_ELEMENT_COUNT: [N], each request's elements. BATCH_ACCUMULATED_ELEMENT_COUNT: [N], their running sum.
        BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO: [N + 1], the same after a 0. BATCH_MAX_ELEMENT_COUNT_AS_SHAPE:
        [the largest count], only the shape means anything. BATCH_ITEM_SHAPE: [rows, rank - 1], each row's shape without
        the batch dimension. BATCH_ITEM_SHAPE_FLATTEN: [rows * (rank - 1)], the same in one dimension.

    Raises:
        ValueError: `kind` is none of these, or item shapes differ in rank.
    """
    if kind in {"BATCH_ITEM_SHAPE", "BATCH_ITEM_SHAPE_FLATTEN"}:
        item_shapes = [shape[1:] for shape in shapes for _ in range(shape[0])]
        rank = len(shapes[0]) - 1
        tensor = np.array(item_shapes, dtype=dtype).reshape(len(item_shapes), rank)
        return tensor if kind == "BATCH_ITEM_SHAPE" else tensor.reshape(-1)
    counts = [math.prod(shape) for shape in shapes]
    if kind == "BATCH_ELEMENT_COUNT":
        return np.array(counts, dtype=dtype)
    if kind == "BATCH_ACCUMULATED_ELEMENT_COUNT":
        return np.cumsum(counts).astype(dtype)
    if kind == "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO":
        return np.cumsum([0, *counts]).astype(dtype)
    if kind == "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE":
        return np.zeros(max(counts), dtype=dtype)
    raise ValueError(f"unsupported BatchInputKind {kind}")


def split(plan: BatchPlan, outputs: Sequence[Array], items: Sequence[Item]) -> list[Arrays]:
    """Hand each item its share of the outputs.

    Args:
        plan: The model's plan.
        outputs: What onnxruntime returned for `plan.output_names`.
        items: The items, in the order in which they were merged.

    Returns:
        For each item its outputs, in the order of `plan.output_names`; views where possible.

    Raises:
        ValueError: An output does not have the rows or elements of the batch.
    """
    rows = [row_count(item) for item in items] if plan.batching else []
    shares = [_shares(plan, output, tensor, items, rows) for output, tensor in zip(plan.outputs, outputs, strict=True)]
    return list(zip(*shares, strict=True))


def _shares(
    plan: BatchPlan, output: OutputPlan, tensor: Array, items: Sequence[Item], rows: Sequence[int]
) -> list[Array]:
    if output.source_input is not None:
        return _scatter(plan, output, tensor, [item[output.source_input].shape for item in items])
    if tensor.ndim == 0:
        tensor = tensor.reshape((1, *output.dims) if plan.batching else output.dims)
    if not plan.batching:
        return [tensor]
    if tensor.shape[0] != sum(rows):
        raise ValueError(f"output '{output.name}' has {tensor.shape[0]} rows, the batch has {sum(rows)}")
    if len(rows) == 1:
        return [tensor]
    return [tensor[end - count : end] for count, end in zip(rows, accumulate(rows), strict=True)]


def _scatter(plan: BatchPlan, output: OutputPlan, tensor: Array, sources: Sequence[Shape]) -> list[Array]:
    """Cut a flat output into pieces; an open dimension takes the size of the same dimension of the source input."""
    flat = tensor.reshape(-1)
    template = (-1, *output.dims) if plan.batching else output.dims
    shapes = [tuple(source[axis] if size == -1 else size for axis, size in enumerate(template)) for source in sources]
    needed = sum(math.prod(shape) for shape in shapes)
    if needed > flat.size:
        raise ValueError(f"output '{output.name}' has {flat.size} elements, its requests need {needed}")
    pieces = []
    start = 0
    for shape in shapes:
        end = start + math.prod(shape)
        pieces.append(flat[start:end].reshape(shape))
        start = end
    return pieces
