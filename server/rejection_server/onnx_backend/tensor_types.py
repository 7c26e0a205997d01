"""Names and shapes of an ONNX model's tensors, in the terms of Triton's model configuration."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rejection_server.onnx_backend.refusal import UNSUPPORTED, LoadRefusedError

ONNX_TO_TRITON = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
SUPPORTED_DATA_TYPES = frozenset(ONNX_TO_TRITON.values())
_KIND_OF_TYPE = {"seq": "ONNX_TYPE_SEQUENCE", "map": "ONNX_TYPE_MAP", "sparse_tensor": "ONNX_TYPE_SPARSETENSOR"}


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of an ONNX model."""

    name: str
    data_type: str
    """Triton's name of the element type, `TYPE_INVALID` where Triton has none (bfloat16, complex)."""
    shape: tuple[int, ...]
    """-1 where the model leaves a dimension open; empty for a scalar."""


def tensor_infos(nodes: Iterable[Any]) -> dict[str, TensorInfo]:
    """Describe inputs or outputs of an `onnxruntime.InferenceSession`, by name in alphabetical order.

    Raises:
        LoadRefusedError: One of them is not a tensor.
    """
    infos = {}
    for node in sorted(nodes, key=lambda node: str(node.name)):
        if not node.type.startswith("tensor("):
            kind = _KIND_OF_TYPE.get(node.type.partition("(")[0], "ONNX_TYPE_UNKNOWN")
            raise LoadRefusedError(
                f"Unsupported ONNX Type '{kind}' for I/O '{node.name}', expected 'ONNX_TYPE_TENSOR'.", UNSUPPORTED
            )
        shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
        infos[node.name] = TensorInfo(node.name, ONNX_TO_TRITON.get(node.type, "TYPE_INVALID"), shape)
    return infos


def shape_text(shape: Iterable[int]) -> str:
    """Print a shape as Triton does: `[-1,2]`."""
    return f"[{','.join(str(size) for size in shape)}]"
