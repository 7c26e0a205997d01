"""The graph that is served: a padded float32 classifier made ragged, in a chosen precision."""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, TensorProto, helper

from rejection_server.graph.float16 import to_float16
from rejection_server.graph.opset import at_least_opset
from rejection_server.graph.packed import to_packed
from rejection_server.graph.quantize import quantize_per_token
from rejection_server.graph.ragged import Form, to_ragged
from rejection_server.graph.varlen import cpu_twin, to_varlen
from rejection_server.graph.walk import GraphError, drop_traces, graphs
from rejection_server.onnx_backend.token_ids import TokenIds
from rejection_server.prepare.configuration import Device, Engine
from rejection_server.prepare.describe import Description, check_vocabulary
from rejection_server.prepare.errors import (
    CorruptedError,
    DiskFullError,
    UnexpectedError,
    UnsupportedError,
    VocabularyError,
    disk_errors,
)
from rejection_server.prepare.isolated import isolated
from rejection_server.prepare.onnx_file import load_onnx
from rejection_server.prepare.tokenizer import SAMPLED_LENGTHS, SEGMENTS
from rejection_server.prepare.weights import attach, detach
from rejection_server.wording import one_line

Precision = Literal["fp32", "fp16", "int8"]

FASTER = 0.95
"""The optimised graph is taken if it needs less than this share of the plain one's time."""
PACKED_SLOWER = 1.05
"""The packed form may take this share of the loop's time for a text alone: what it gains, short texts in a batch do."""
TIMED_RUNS = 8
LARGEST_FILE = 2**31 - 1

_CONTRIB = "com.microsoft"
_OLDEST = 13

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """What became of the graph."""

    optimizer: str
    """Whether onnxruntime's transformer optimiser was used, and why."""
    milliseconds: dict[str, float]
    """Time of a text of so many tokens on one thread of this machine, the fastest of several runs."""
    form: str
    """loop or packed, for a GPU padded, varlen or tensorrt."""
    packed: str = "not tried"
    """Whether the packed form, for a GPU the varlen form, was taken, and why."""
    twin: Path | None = None
    """What a processor can run in place of the graph, equal to it but for the operator that only GPUs have."""


@dataclass(frozen=True)
class Plan:
    """What graph is to be made."""

    model: Description
    precision: Precision
    device: Device = "cpu"
    engine: Engine = "onnxruntime"
    packed: bool = True
    """Whether the packed form, for a GPU the varlen form, may be taken."""
    quantized: bool = False
    """Whether the model is in int8 already, and stays as it is."""


def build(padded: Path, served: Path, plan: Plan) -> Built:
    """Write the served form of the padded model to `served`: for a CPU packed, where allowed, possible and not slower.

    For a GPU varlen, where allowed and possible; for TensorRT in the form of that name. Otherwise with or without
    onnxruntime's optimiser, whichever is faster. Each step has a process of its own: memory is what a large float32
    model is short of. Raises UnsupportedError, VocabularyError, CorruptedError or DiskFullError.
    """
    packed = "not tried"
    if plan.engine == "tensorrt":
        isolated(write_graph, padded, served, plan)
        return Built("not used: TensorRT fuses by itself", {}, "tensorrt")
    if plan.packed and plan.device == "gpu":
        twin = served.with_name("twin.onnx")
        packed = _varlen(padded, served, twin, plan)
        if packed == "used":
            return Built("not used: the varlen form is built anew", {}, "varlen", packed, twin)
    isolated(write_graph, padded, served, plan)
    if plan.packed and plan.device == "cpu" and plan.precision != "fp16":
        packed, times = _replaced_by_packed(padded, served, plan)
        if times is not None:
            return Built("not used: the packed form is built anew", times, "packed", packed)
    return replace(_optimized(padded, served, plan), packed=packed)


def _replaced_by_packed(padded: Path, served: Path, plan: Plan) -> tuple[str, dict[str, float] | None]:
    """Put the packed form in the place of the loop at `served`, if there is one and it is not slower.

    Returns whether and why, and the packed form's times if it took the place.
    """
    packed = served.with_name("packed.onnx")
    try:
        isolated(write_packed, padded, packed, plan)
        loop, times = isolated(milliseconds, [served, packed], plan)
        speed = f"{sum(loop.values()) / sum(times.values()):.2f} times as fast as the loop for a text alone"
        if sum(times.values()) > PACKED_SLOWER * sum(loop.values()):
            return f"not used: {speed}", None
        packed.replace(served)
    except DiskFullError:
        raise
    except Exception as exc:  # not recognised, or whatever onnxruntime raises
        _log.info("no packed form", exc_info=True)
        return f"not used: {_why(exc)}", None
    finally:
        packed.unlink(missing_ok=True)
    return f"used: {speed}", times


def _varlen(padded: Path, served: Path, twin: Path, plan: Plan) -> str:
    """Write the varlen form to `served`, and to `twin` what a processor runs; returns whether, and why not."""
    try:
        isolated(write_varlen, padded, served, plan)
        isolated(write_twin, served, twin)
    except (DiskFullError, VocabularyError):
        raise
    except Exception as exc:  # not recognised, or whatever onnxruntime raises
        _log.info("no varlen form", exc_info=True)
        served.unlink(missing_ok=True)
        return f"not used: {_why(exc)}"
    return "used"


def _why(exc: Exception) -> str:
    """Why a form was not taken: what an unforeseen error said is no fault here, where another form does as well."""
    return one_line(exc.what if isinstance(exc, UnexpectedError) else exc, 160)


def write_varlen(padded: Path, path: Path, plan: Plan) -> None:
    """Write the varlen form of the padded model to `path`; raises GraphError if there is none, or what `build` does."""
    model = _read(padded, plan.model)
    rows = embedding_rows(model)
    if rows is not None:
        check_vocabulary(plan.model.largest_id, rows)
    float16 = plan.precision == "fp16"
    _write(to_varlen(model, heads=plan.model.heads, activation=plan.model.activation, float16=float16), path)


def write_twin(path: Path, twin: Path) -> None:
    """Write what a processor runs of the varlen graph at `path` to `twin`."""
    _write(cpu_twin(onnx.load(path)), twin)


def write_packed(padded: Path, path: Path, plan: Plan) -> None:
    """Write the packed form of the padded model to `path`; raises GraphError if there is none, or what `build` does."""
    model = _read(padded, plan.model)
    _write(
        to_packed(model, heads=plan.model.heads, int8=plan.precision == "int8", activation=plan.model.activation), path
    )


def _ragged_form(plan: Plan) -> Form:
    if plan.engine == "tensorrt":
        return "tensorrt"
    return "padded" if plan.device == "gpu" else "loop"


def _optimized(padded: Path, served: Path, plan: Plan) -> Built:
    """Put the form that onnxruntime's optimiser makes in the place of the one at `served`, if it is faster."""
    form = _ragged_form(plan)
    if plan.device == "gpu" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return Built("not used: without a GPU its effect cannot be measured", {}, form)
    fused, optimized = served.with_name("fused.onnx"), served.with_name("optimized.onnx")
    try:
        isolated(fuse, padded, fused, plan)
        isolated(write_graph, fused, optimized, plan)
        plain, other = isolated(milliseconds, [served, optimized], plan)
    except DiskFullError:
        raise
    except Exception as exc:  # the optimiser raises whatever its fusions stumble over
        _log.info("the transformer optimiser failed", exc_info=True)
        return Built(f"not used: it failed ({_why(exc)})", {}, form)
    finally:
        for path in (fused, fused.with_name(f"{fused.name}.data")):
            path.unlink(missing_ok=True)
    ratio = sum(other.values()) / sum(plain.values())
    if ratio < FASTER:
        optimized.replace(served)
        return Built(f"used: {1 / ratio:.2f} times as fast", other, form)
    return Built(f"not used: {1 / ratio:.2f} times as fast", plain, form)


def write_graph(padded: Path, served: Path, plan: Plan) -> None:
    """Write the served form of the padded model to `served`; raises what `build` does."""
    model = _read(padded, plan.model)
    rows = embedding_rows(model)
    if rows is not None:
        check_vocabulary(plan.model.largest_id, rows)
    try:
        model = at_least_opset(model, _OLDEST) if plan.quantized else in_precision(model, plan.precision)
        weights = detach(model)
        ragged = to_ragged(
            model,
            form=_ragged_form(plan),
            accepted=TokenIds(rows or plan.model.largest_id + 1, plan.model.model_max_length),
            activation=plan.model.activation,
            pad_id=plan.model.pad_id,
        )
    except GraphError as exc:
        raise UnsupportedError(f"the model's ONNX file cannot be served: {exc}") from exc
    except onnx.checker.ValidationError as exc:
        _blame(padded)
        raise exc from None
    del model
    attach(ragged, weights)
    _write(ragged, served)


def _blame(padded: Path) -> None:
    """Raise CorruptedError if the file itself is no valid graph, and not what was made of it."""
    try:
        onnx.checker.check_model(padded)
    except onnx.checker.ValidationError as exc:
        raise CorruptedError(
            f"{padded.name} is no valid ONNX graph ({one_line(exc, 160)}): export the model again"
        ) from exc


def _read(path: Path, described: Description) -> ModelProto:
    model = load_onnx(path)
    if not _is_older(model):
        _fix_squeezes(model.graph)  # while the exporter's shapes are there
    drop_traces(model.graph)
    outputs = [value for value in model.graph.output if value.name == "logits" or len(model.graph.output) == 1]
    for value in outputs:  # some exporters leave the number of labels open
        shape = value.type.tensor_type.shape.dim
        if len(shape) == 2 and not shape[1].dim_value:
            shape[1].dim_value = len(described.labels)
    _fix_segment(model.graph, described.segment)
    return model


def _fix_segment(graph: GraphProto, segment: int) -> None:
    """Make the input `token_type_ids`, if there is one, a constant; the served forms know no segment but 0."""
    given = [value for value in graph.input if value.name == SEGMENTS]
    if not given or segment == 0:
        return
    graph.input.remove(given[0])
    constant = helper.make_tensor("segment", TensorProto.INT64, [1], [segment])
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["segment_shape"]),
        helper.make_node("ConstantOfShape", ["segment_shape"], [SEGMENTS], value=constant),
    ]
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _fix_squeezes(graph: GraphProto) -> None:
    """Have a Squeeze that names no axes take away those alone that are of length 1 for any number of rows.

    It would take away the rows as well where a text is computed alone, as it does in PyTorch, where what it leaves is
    broadcast.
    """
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    for node in graph.node:
        shape = shapes.get(node.input[0]) if node.op_type == "Squeeze" and len(node.input) == 1 else None
        if not shape or node.attribute or shape[0].dim_value:  # with rows of the example the shape says nothing
            continue
        axes = [axis for axis, size in enumerate(shape) if size.dim_value == 1]
        if axes:
            graph.initializer.append(helper.make_tensor(f"{node.output[0]}_axes", TensorProto.INT64, [len(axes)], axes))
            node.input.append(f"{node.output[0]}_axes")
        else:
            node.op_type = "Identity"


def embedding_rows(model: ModelProto) -> int | None:
    """Rows of the table that `input_ids` are looked up in; None where the graph does not show it."""
    tables = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    ids = {"input_ids"}
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity") and node.input[0] in ids:
            ids.add(node.output[0])
        elif node.op_type == "Gather" and len(node.input) > 1 and node.input[1] in ids and node.input[0] in tables:
            return int(tables[node.input[0]][0])
    return None


def in_precision(model: ModelProto, precision: Precision) -> ModelProto:
    """The padded float32 model in that precision, its inputs and outputs as they were; it may change `model`."""
    if precision == "int8":
        quantized = quantize_per_token(model)
        if all(node.op_type != "MatMulIntegerToFloat" for graph in graphs(quantized.graph) for node in graph.node):
            raise UnsupportedError("the model has no matrix of weights to quantise: prepare it with --precision fp32")
        return quantized
    if precision == "fp16":
        return to_float16(model)
    if _is_older(model):
        return at_least_opset(model, _OLDEST)  # while the weights are there: their shapes guide the conversion
    return model


def _is_older(model: ModelProto) -> bool:
    """Whether it is of an opset in which axes are attributes."""
    return any(entry.domain in ("", "ai.onnx") and entry.version < _OLDEST for entry in model.opset_import)


def fuse(padded: Path, fused: Path, plan: Plan) -> None:
    """Write the padded model as onnxruntime's transformer optimiser leaves it, the weights in a file beside it."""
    from onnxruntime.transformers.optimizer import optimize_model

    model = _read(padded, plan.model)
    logging.disable(logging.WARNING)  # this process ends soon; what fused and what did not is not for who prepares
    tables = detach(model, only_tables=True)
    result = optimize_model(
        model,
        "bert",
        num_heads=plan.model.heads,
        hidden_size=plan.model.hidden_size,
        opt_level=0,
        use_gpu=plan.device == "gpu",
    ).model
    if all(entry.domain != _CONTRIB for entry in result.opset_import):
        result.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    del result.graph.value_info[:]
    attach(result, tables)
    with disk_errors(fused):
        onnx.save(result, fused, save_as_external_data=True, location=f"{fused.name}.data")


def _write(model: ModelProto, path: Path) -> None:
    if model.ByteSize() > LARGEST_FILE:
        raise UnsupportedError("the served model would be larger than 2 GB, which one ONNX file cannot hold: use int8")
    with disk_errors(path):
        onnx.save(model, path)


def milliseconds(paths: list[Path], plan: Plan) -> list[dict[str, float]]:
    """Time of a text by its number of tokens, for each graph: on one thread, the fastest of several runs.

    The graphs take turns, and on a CPU its own time counts: whatever else the machine does must not decide.
    """
    clock = time.thread_time if plan.device == "cpu" else time.perf_counter
    sessions = [session(path, plan.device) for path in paths]
    best: list[dict[str, float]] = [{} for _ in paths]
    for row in plan.model.sample_rows[: len(SAMPLED_LENGTHS)]:
        length = len(row)
        ids = np.asarray(row, dtype=np.int64)
        feed = {"input_ids": ids, "sequence_lengths": np.asarray([[length]], dtype=np.int32)}
        for _ in range(TIMED_RUNS):
            for running, times in zip(sessions, best, strict=True):
                begin = clock()
                running.run(["logits"], feed)
                elapsed = round((clock() - begin) * 1000, 2)
                times[str(length)] = min(elapsed, times.get(str(length), elapsed))
    return best


def session(path: Path, device: Device) -> Any:
    """The graph at `path` on one thread of that device; raises UnsupportedError if onnxruntime does not take it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what fails is told by who asked
    provider = "CUDAExecutionProvider" if device == "gpu" else "CPUExecutionProvider"
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as exc:  # onnxruntime raises nothing narrower
        raise UnsupportedError(f"onnxruntime does not take the graph: {one_line(exc, 200)}") from exc
