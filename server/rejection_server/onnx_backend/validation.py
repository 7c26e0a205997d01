"""Compare a model configuration with the ONNX model that it is for.

The checks, their order and their words are those of Triton's C++ onnxruntime backend, so that both hosts give the same
answer about the same repository.
"""

from collections.abc import Collection, Mapping

from rejection_server.onnx_backend.config import ModelConfig, TensorConfig
from rejection_server.onnx_backend.refusal import INTERNAL, LoadRefusedError
from rejection_server.onnx_backend.tensor_types import SUPPORTED_DATA_TYPES, TensorInfo, shape_text


def check_inputs(
    config: ModelConfig, inputs: Mapping[str, TensorInfo], overridable_initializers: Mapping[str, TensorInfo]
) -> None:
    """Check `input` and `batch_input` against the model's inputs.

    Raises:
        LoadRefusedError: They differ in number, name, data type or shape.
    """
    expected = sum(not tensor.optional for tensor in config.inputs) + len(config.batch_inputs)
    if len(inputs) != expected:
        raise LoadRefusedError(
            f"unable to load model '{config.name}', configuration expects {expected} inputs, "
            f"model provides {len(inputs)}"
        )
    allowed = {**inputs, **overridable_initializers}
    for tensor in config.inputs:
        _check_optional(config, tensor)
        info = _find(tensor, allowed, "input")
        _check_data_type(config, tensor, info, "input")
        if tensor.ragged:
            _check_ragged(config, tensor, info)
        else:
            _check_shape(config, tensor, info, exact=False)


def check_outputs(config: ModelConfig, outputs: Mapping[str, TensorInfo]) -> None:
    """Check `output` against the model's outputs.

    Raises:
        LoadRefusedError: They differ in name, data type or shape.
    """
    for tensor in config.outputs:
        info = _find(tensor, outputs, "output")
        _check_data_type(config, tensor, info, "output")
        if tensor.name not in config.scattered_outputs:
            _check_shape(config, tensor, info, exact=True)


def _check_optional(config: ModelConfig, tensor: TensorConfig) -> None:
    if tensor.optional and config.max_batch_size != 0:
        raise LoadRefusedError(
            f"unable to load model '{config.name}', optional input '{tensor.name}' is not supported for models that "
            "support batching"
        )
    if tensor.optional and tensor.ragged:
        raise LoadRefusedError(
            f"unable to load model '{config.name}', configuration expects model provides input with shape [-1] for "
            f"ragged input '{tensor.name}', which is not supported for optional input"
        )


def _find(tensor: TensorConfig, allowed: Mapping[str, TensorInfo], role: str) -> TensorInfo:
    info = allowed.get(tensor.name)
    if info is None:
        names: Collection[str] = sorted(allowed)
        raise LoadRefusedError(f"unexpected inference {role} '{tensor.name}', allowed {role}s are: {', '.join(names)}")
    return info


def _check_data_type(config: ModelConfig, tensor: TensorConfig, info: TensorInfo, role: str) -> None:
    if tensor.data_type not in SUPPORTED_DATA_TYPES:
        raise LoadRefusedError(
            f"unsupported datatype {tensor.data_type} for {role} '{tensor.name}' for model '{config.name}'", INTERNAL
        )
    if tensor.data_type != info.data_type:
        # Triton's protocol calls strings BYTES, its model configuration STRING.
        provided = "TYPE_BYTES" if info.data_type == "TYPE_STRING" else info.data_type
        raise LoadRefusedError(
            f"unable to load model '{config.name}', configuration expects datatype {tensor.data_type} for {role} "
            f"'{tensor.name}', model provides {provided}"
        )


def _check_ragged(config: ModelConfig, tensor: TensorConfig, info: TensorInfo) -> None:
    if info.shape != (-1,):
        raise LoadRefusedError(
            f"unable to load model '{config.name}', configuration expects model provides input with shape [-1] for "
            f"ragged input '{tensor.name}', model provides {shape_text(info.shape)}"
        )


def _check_shape(config: ModelConfig, tensor: TensorConfig, info: TensorInfo, *, exact: bool) -> None:
    if not info.shape:
        _check_scalar(config, tensor)
        return
    about = f"model '{config.name}', tensor '{tensor.name}':"
    batching = config.max_batch_size > 0
    if batching and info.shape[0] != -1:
        raise LoadRefusedError(
            f"{about} for the model to support batching the shape should have at least 1 dimension and the first "
            f"dimension must be -1; but shape expected by the model is {shape_text(info.shape)}"
        )
    configured = (-1, *tensor.dims) if batching else tensor.dims
    if len(configured) == len(info.shape) and all(
        in_model == in_config or (in_model == -1 and not exact)
        for in_model, in_config in zip(info.shape, configured, strict=True)
    ):
        return
    complete = f"(shape {shape_text(configured)})"
    if batching:
        complete = (
            "(an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making "
            f"complete shape {shape_text(configured)})"
        )
    raise LoadRefusedError(
        f"{about} the model expects {len(info.shape)} dimensions (shape {shape_text(info.shape)}) but the model "
        f"configuration specifies {len(configured)} dimensions {complete}"
    )


def _check_scalar(config: ModelConfig, tensor: TensorConfig) -> None:
    if any(size != 1 for size in tensor.dims):
        raise LoadRefusedError(
            f"unable to load model '{config.name}', scalar tensor '{tensor.name}', should only provide 1 in the model "
            "configuration when the model doesn't support batching. Model configuration provided: "
            f"{shape_text(tensor.dims)}."
        )
