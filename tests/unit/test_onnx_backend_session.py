"""Sessions as the configuration describes them, and what they answer; with the real onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from integration import onnx_backend_models as models
from rejection_server.onnx_backend.config import ModelConfig
from rejection_server.onnx_backend.instance import Cause, Failure, decode_strings, load_instance
from rejection_server.onnx_backend.refusal import LoadRefusedError
from rejection_server.onnx_backend.session import (
    ModelFile,
    Provider,
    create_session,
    execution_providers,
    find_model_file,
    read_settings,
)
from rejection_server.onnx_backend.tensor_types import tensor_infos
from support.onnx_instance import GATHER, RAGGED, config, entry, infer, load

CPU: list[Provider] = [("CPUExecutionProvider", {})]


@pytest.fixture
def version_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder" / "1"
    folder.mkdir(parents=True)
    return folder


def session_options(version_folder: Path, parsed: ModelConfig) -> Any:
    onnx.save(models.identity(), version_folder / "model.onnx")
    file = find_model_file(parsed, version_folder)
    return create_session(parsed, read_settings(parsed), file, CPU).get_session_options()


def test_parameters_reach_onnxruntime(version_folder: Path) -> None:
    parameters = {
        "intra_op_thread_count": "3",
        "inter_op_thread_count": "2",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "enable_mem_pattern": "false",
        "some_other_parameter": "anything",
    }
    options = session_options(version_folder, config(parameters=parameters))
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 2
    assert options.execution_mode.name == "ORT_PARALLEL"
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern


def test_without_parameters_onnxruntime_decides(version_folder: Path) -> None:
    options = session_options(version_folder, config(parameters={"intra_op_thread_count": "-1"}))
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (0, 0)
    assert options.execution_mode.name == "ORT_SEQUENTIAL"
    assert options.enable_cpu_mem_arena
    assert options.enable_mem_pattern


@pytest.mark.parametrize(
    ("level", "name"),
    [(-1, "ORT_ENABLE_BASIC"), (0, "ORT_ENABLE_ALL"), (1, "ORT_ENABLE_EXTENDED"), (2, "ORT_DISABLE_ALL")],
)
def test_graph_optimization_level(version_folder: Path, level: int, name: str) -> None:
    options = session_options(version_folder, config(optimization={"graph": {"level": level}}))
    assert options.graph_optimization_level.name == name


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"intra_op_thread_count": "two"}, "failed to convert 'two' to integral number"),
        ({"inter_op_thread_count": "x"}, "failed to convert 'x' to integral number"),
        (
            {"execution_mode": "7"},
            "Invalid configuration value provided. Expected values for execution_mode are 0 or 1 but got 7.",
        ),
        ({"enable_mem_arena": "maybe"}, "failed to convert 'maybe' to boolean"),
        ({"enable_mem_pattern": "2"}, "failed to convert '2' to boolean"),
        ({"share_session_between_instances": "-"}, "failed to convert '-' to boolean"),
    ],
)
def test_settings_that_are_refused(parameters: dict[str, str], sentence: str) -> None:
    with pytest.raises(LoadRefusedError) as refused:
        read_settings(config(parameters=parameters))
    assert refused.value.sentence == sentence


def test_model_file_names(version_folder: Path) -> None:
    (version_folder / "a.onnx").touch()
    (version_folder / "model.onnx").mkdir()
    assert find_model_file(config(default_model_filename="a.onnx"), version_folder).shown == "X/1/a.onnx"
    with pytest.raises(LoadRefusedError) as refused:
        find_model_file(config(), version_folder)
    assert refused.value.sentence == "unable to find 'X/1/model.onnx/model.onnx' for model instance 'X'"
    (version_folder / "model.onnx" / "model.onnx").touch()
    assert find_model_file(config(), version_folder).shown == "X/1/model.onnx/model.onnx"
    with pytest.raises(LoadRefusedError) as refused:
        find_model_file(config(default_model_filename="b.onnx"), version_folder)
    assert refused.value.sentence == "failed to stat file X/1/b.onnx"


def test_a_broken_file_is_refused_without_its_path(version_folder: Path) -> None:
    (version_folder / "model.onnx").write_bytes(b"rubbish")
    with pytest.raises(LoadRefusedError) as refused:
        load_instance(config(), version_folder, "CPU", 0)
    assert refused.value.sentence == (
        "onnx runtime error 7: Load model from X/1/model.onnx failed:Protobuf parsing failed."
    )


def test_what_nobody_can_change_is_not_warned_of(version_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = models.identity()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), "in_no_use"))
    onnx.save(model, version_folder / "model.onnx")
    create_session(config(), read_settings(config()), find_model_file(config(), version_folder), CPU)
    assert "in_no_use" not in "".join(capfd.readouterr())


def accelerators(**kinds: Any) -> ModelConfig:
    return config(optimization={"execution_accelerators": kinds})


def test_cpu_instances_run_on_the_cpu() -> None:
    for kind in ("CPU", "AUTO", "MODEL"):
        assert execution_providers(config(), kind, 0, ["CUDAExecutionProvider", "CPUExecutionProvider"]) == CPU


def test_gpu_instances_run_on_their_device() -> None:
    parsed = config(
        parameters={"cudnn_conv_algo_search": "1", "gpu_mem_limit": "1000"},
        optimization={
            "execution_accelerators": {
                "gpu_execution_accelerator": [{"name": "cuda", "parameters": {"use_ep_level_unified_stream": "1"}}]
            }
        },
    )
    [(name, options), fallback] = execution_providers(parsed, "GPU", 2, ["CUDAExecutionProvider"])
    assert name == "CUDAExecutionProvider"
    assert options == {
        "device_id": "2",
        "cudnn_conv_algo_search": "HEURISTIC",
        "gpu_mem_limit": "1000",
        "use_ep_level_unified_stream": "1",
    }
    assert fallback == CPU[0]


def test_openvino_where_onnxruntime_has_it() -> None:
    parsed = accelerators(cpu_execution_accelerator=[{"name": "openvino"}])
    providers = execution_providers(parsed, "CPU", 0, ["OpenVINOExecutionProvider"])
    assert providers == [("OpenVINOExecutionProvider", {"device_type": "CPU"}), *CPU]


@pytest.mark.parametrize(
    ("parsed", "kind", "sentence"),
    [
        (config(), "GPU", "instance_group asks for KIND_GPU but the installed onnxruntime offers no CUDA"),
        (
            accelerators(cpu_execution_accelerator=[{"name": "openvino"}]),
            "CPU",
            "Execution Accelerator 'openvino' is requested but the installed onnxruntime offers no OpenVINO",
        ),
        (
            accelerators(cpu_execution_accelerator=[{"name": "magic"}]),
            "CPU",
            "unknown Execution Accelerator 'magic' is requested",
        ),
    ],
)
def test_providers_that_are_not_there(parsed: ModelConfig, kind: str, sentence: str) -> None:
    with pytest.raises(LoadRefusedError, match=sentence):
        execution_providers(parsed, kind, 0, ["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("tensorrt", "'tensorrt' is not available on the embedded host"), ("x", "unknown Execution Accelerator 'x'")],
)
def test_gpu_accelerators_that_are_refused(name: str, sentence: str) -> None:
    parsed = accelerators(gpu_execution_accelerator=[{"name": name}])
    with pytest.raises(LoadRefusedError, match=sentence):
        execution_providers(parsed, "GPU", 0, ["CUDAExecutionProvider"])


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_refused(version_folder: Path) -> None:
    onnx.save(models.identity(), version_folder / "model.onnx")
    file = ModelFile(version_folder / "model.onnx", "X/1/model.onnx")
    with pytest.raises(LoadRefusedError, match="could not start CUDAExecutionProvider"):
        create_session(config(), read_settings(config()), file, [("CUDAExecutionProvider", {}), *CPU])


def test_signature_of_a_model(version_folder: Path) -> None:
    onnx.save(models.classifier(), version_folder / "model.onnx")
    parsed = config()
    session = create_session(parsed, read_settings(parsed), find_model_file(parsed, version_folder), CPU)
    inputs = tensor_infos(session.get_inputs())
    assert [(info.name, info.data_type, info.shape) for info in inputs.values()] == [
        ("attention_mask", "TYPE_INT64", (-1, -1)),
        ("input_ids", "TYPE_INT64", (-1, -1)),
    ]
    assert tensor_infos(session.get_outputs())["logits"].shape == (-1, 2)


def test_inputs_that_are_not_tensors_are_refused(version_folder: Path) -> None:
    sequence = onnx.helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    node = onnx.helper.make_node("SequenceLength", ["s"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", TensorProto.INT64, [])
    graph = onnx.helper.make_graph([node], "test", [sequence], [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(LoadRefusedError) as refused:
        load(version_folder, model)
    assert (
        refused.value.sentence == "Unsupported ONNX Type 'ONNX_TYPE_SEQUENCE' for I/O 's', expected 'ONNX_TYPE_TENSOR'."
    )


def test_requests_of_different_lengths_run_as_one_batch(version_folder: Path) -> None:
    instance = load(version_folder, models.ragged_sum(), **RAGGED)
    rows = [np.arange(length)[None] for length in (3, 1, 5)]
    results = infer(instance, [{"ids": row} for row in rows])
    assert instance.output_names == ["total", "count"]
    assert [total.tolist() for total, _ in results] == [[[3.0]], [[0.0]], [[10.0]]]
    assert [count.item() for _, count in results] == [9, 9, 9]


def test_only_the_guilty_request_of_a_batch_fails(version_folder: Path) -> None:
    instance = load(version_folder, models.gather(), **GATHER)
    good, bad, also_good = infer(instance, [{"index": np.array([[index]])} for index in (1, 9, 3)])
    assert good[0].tolist() == [[11.0]]
    assert also_good[0].tolist() == [[13.0]]
    assert isinstance(bad, Failure)
    assert bad.message.startswith("onnx runtime error 2: Non-zero status code returned while running Gather node.")
    assert "idx=9" in bad.message
    assert ".cc" not in bad.message
    assert bad.cause is Cause.MODEL


def test_no_requests_at_all(version_folder: Path) -> None:
    assert load(version_folder, models.identity(), input=[entry("x")], output=[entry("y")]).infer([]) == []


def test_scalars(version_folder: Path) -> None:
    instance = load(
        version_folder, models.scalar(), max_batch_size=0, input=[entry("x", dims=[1])], output=[entry("y", dims=[1])]
    )
    assert infer(instance, [{"x": np.array([2.0], dtype=np.float32)}])[0][0].tolist() == [3.0]


def test_strings_are_decoded() -> None:
    decoded = decode_strings("t", np.array([[b"a", "ß€😀".encode()]], dtype=object))
    assert not isinstance(decoded, Failure)
    assert decoded.tolist() == [["a", "ß€😀"]]


def test_strings_that_are_not_utf8() -> None:
    failure = decode_strings("t", np.array([b"a", b"\xff"], dtype=object))
    assert failure == Failure("input 't': element 1 is not valid UTF-8", Cause.REQUEST)
