"""The opset of a model: which version of each standard operator its nodes mean."""

from onnx import ModelProto, version_converter


def at_least_opset(model: ModelProto, minimum: int) -> ModelProto:
    """A copy of ``model`` whose standard operators are of opset ``minimum`` or newer."""
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < minimum:
        return version_converter.convert_version(model, minimum)
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy
