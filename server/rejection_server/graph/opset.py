"""The opset of a model: which version of each standard operator its nodes mean."""

from onnx import ModelProto, version_converter

from rejection_server.graph.walk import GraphError


def at_least_opset(model: ModelProto, minimum: int) -> ModelProto:
    """A copy of ``model`` whose standard operators are of opset ``minimum`` or newer.

    Raises GraphError if its operators are not those of the opset that it names, or have no newer form.
    """
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < minimum:
        try:
            return version_converter.convert_version(model, minimum)
        except (RuntimeError, version_converter.ConvertError) as exc:
            raise GraphError(
                f"its operators are said to be of opset {version} and cannot be brought to opset {minimum}: export the "
                f"model anew with opset {minimum}"
            ) from exc
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy
