"""The stand-in `onnxruntime` backend inside a real Triton, over gRPC."""

import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

from integration import onnx_backend_models as models
from integration.onnx_backend_server import CALL_TIMEOUT_S, BackendServer, running_server, triton_inputs

ONE_INSTANCE = "instance_group [{ count: 1 kind: KIND_CPU }]\n"
GATHER_A_BATCH = "dynamic_batching { max_queue_delay_microseconds: 300000 }\n" + ONE_INSTANCE
GATHER_NOTHING = "dynamic_batching {}\n" + ONE_INSTANCE
LOAD_THREADS = 4

Entry = tuple[str, str, Sequence[int]] | tuple[str, str, Sequence[int], str]
"""Name, type and dims of an input or output, and what else its configuration says."""


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendServer]:
    with running_server(tmp_path_factory.mktemp("onnx_backend")) as server:
        yield server


def tensor(name: str, data_type: str, dims: Sequence[int], more: str = "") -> str:
    return f'{{ name: "{name}" data_type: {data_type} dims: {dims} {more} }}'


def configuration(inputs: Sequence[Entry], outputs: Sequence[Entry], more: str = "", max_batch_size: int = 8) -> str:
    lines = [f"max_batch_size: {max_batch_size}"]
    lines += [f"input [{tensor(*entry)}]" for entry in inputs]
    lines += [f"output [{tensor(*entry)}]" for entry in outputs]
    return "\n".join([*lines, more if "instance_group" in more else more + "\n" + ONE_INSTANCE])


def batch_input(kind: str, target: str, source: str, data_type: str = "TYPE_INT32") -> str:
    return f'batch_input [{{ kind: {kind} target_name: "{target}" data_type: {data_type} source_input: "{source}" }}]\n'


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'


X = ("x", "TYPE_FP32", [-1])
Y = ("y", "TYPE_FP32", [-1])
IDS = ("input_ids", "TYPE_INT64", [-1])
MASK = ("attention_mask", "TYPE_INT64", [-1])
LOGITS = ("logits", "TYPE_FP32", [2])
RAGGED_IDS = ("input_ids", "TYPE_INT64", [-1], "allow_ragged_batch: true")
INVALID, OWN = "Invalid argument", "onnxruntime"

REFUSED = {
    "unexpected_input": (
        models.classifier(),
        configuration([("ids", "TYPE_INT64", [-1]), MASK], [LOGITS]),
        INVALID,
        "unexpected inference input 'ids', allowed inputs are: attention_mask, input_ids",
    ),
    "unexpected_output": (
        models.classifier(),
        configuration([IDS, MASK], [("scores", "TYPE_FP32", [2])]),
        INVALID,
        "unexpected inference output 'scores', allowed outputs are: logits",
    ),
    "input_count": (
        models.classifier(),
        configuration([IDS, MASK], [LOGITS], batch_input("BATCH_ELEMENT_COUNT", "n", "input_ids")),
        INVALID,
        "unable to load model 'input_count', configuration expects 3 inputs, model provides 2",
    ),
    "input_type": (
        models.classifier(),
        configuration([("input_ids", "TYPE_INT32", [-1]), MASK], [LOGITS]),
        INVALID,
        "unable to load model 'input_type', configuration expects datatype TYPE_INT32 for input 'input_ids', model "
        "provides TYPE_INT64",
    ),
    "output_type": (
        models.classifier(),
        configuration([IDS, MASK], [("logits", "TYPE_FP16", [2])]),
        INVALID,
        "unable to load model 'output_type', configuration expects datatype TYPE_FP16 for output 'logits', model "
        "provides TYPE_FP32",
    ),
    "output_shape": (
        models.classifier(),
        configuration([IDS, MASK], [("logits", "TYPE_FP32", [3])]),
        INVALID,
        "model 'output_shape', tensor 'logits': the model expects 2 dimensions (shape [-1,2]) but the model "
        "configuration specifies 2 dimensions (an initial batch dimension because max_batch_size > 0 followed by the "
        "explicit tensor shape, making complete shape [-1,3])",
    ),
    "unbatched_shape": (
        models.identity(shape=[None, 2]),
        configuration([X], [Y], max_batch_size=0),
        INVALID,
        "model 'unbatched_shape', tensor 'x': the model expects 2 dimensions (shape [-1,2]) but the model "
        "configuration specifies 1 dimensions (shape [-1])",
    ),
    "fixed_first": (
        models.identity(shape=[1, None]),
        configuration([X], [Y]),
        INVALID,
        "model 'fixed_first', tensor 'x': for the model to support batching the shape should have at least 1 dimension "
        "and the first dimension must be -1; but shape expected by the model is [1,-1]",
    ),
    "ragged_shape": (
        models.classifier(),
        configuration([RAGGED_IDS, MASK], [LOGITS]),
        INVALID,
        "unable to load model 'ragged_shape', configuration expects model provides input with shape [-1] for ragged "
        "input 'input_ids', model provides [-1,-1]",
    ),
    "threads": (
        models.identity(),
        configuration([X], [Y], parameter("intra_op_thread_count", "two")),
        INVALID,
        "failed to convert 'two' to integral number",
    ),
    "inter_threads": (
        models.identity(),
        configuration([X], [Y], parameter("inter_op_thread_count", "two")),
        INVALID,
        "failed to convert 'two' to integral number",
    ),
    "execution_mode": (
        models.identity(),
        configuration([X], [Y], parameter("execution_mode", "7")),
        INVALID,
        "Invalid configuration value provided. Expected values for execution_mode are 0 or 1 but got 7.",
    ),
    "arena": (
        models.identity(),
        configuration([X], [Y], parameter("enable_mem_arena", "maybe")),
        INVALID,
        "failed to convert 'maybe' to boolean",
    ),
    "no_file": (None, configuration([X], [Y]), OWN, "failed to stat file no_file/1/model.onnx"),
    "no_file_to_complete": (None, ONE_INSTANCE, OWN, "failed to stat file no_file_to_complete/1/model.onnx"),
    "broken_file": (
        b"not a model",
        configuration([X], [Y]),
        OWN,
        "onnx runtime error 7: Load model from broken_file/1/model.onnx failed:Protobuf parsing failed.",
    ),
    "broken_file_to_complete": (
        b"not a model",
        None,
        OWN,
        "onnx runtime error 7: Load model from broken_file_to_complete/1/model.onnx failed:Protobuf parsing failed.",
    ),
    "autofill": (
        models.identity(shape=[1, 2]),
        "max_batch_size: 4\n" + ONE_INSTANCE,
        INVALID,
        "autofill failed for model 'autofill': model does not support batching while non-zero max_batch_size is "
        "specified",
    ),
    "accelerator": (
        models.identity(),
        configuration(
            [X],
            [Y],
            'optimization { execution_accelerators { cpu_execution_accelerator [{ name: "magic" }] } }',
        ),
        INVALID,
        "unknown Execution Accelerator 'magic' is requested",
    ),
    "openvino": (
        models.identity(),
        configuration(
            [X],
            [Y],
            'optimization { execution_accelerators { cpu_execution_accelerator [{ name: "openvino" }] } }',
        ),
        INVALID,
        "unable to load model 'openvino', Execution Accelerator 'openvino' is requested but the installed onnxruntime "
        "offers no OpenVINOExecutionProvider",
    ),
    "decoupled": (
        models.identity(),
        configuration([X], [Y], "model_transaction_policy { decoupled: true }"),
        "Unsupported",
        "unable to load model 'decoupled', the decoupled transaction policy is not supported on the embedded host, use "
        "NVIDIA's image (docker/Dockerfile.triton)",
    ),
}


@pytest.fixture(scope="module")
def refusals(triton: BackendServer) -> dict[str, str]:
    """What the client is told about each model of REFUSED."""

    def attempt(name: str) -> str:
        model, config, _, _ = REFUSED[name]
        with pytest.raises(InferenceServerException) as refused:
            triton.load(name, model, config)
        return str(refused.value.message())

    with ThreadPoolExecutor(LOAD_THREADS) as pool:
        return dict(zip(REFUSED, pool.map(attempt, REFUSED), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_the_cpp_backend_refuses(refusals: dict[str, str], name: str) -> None:
    _, _, kind, sentence = REFUSED[name]
    prefix = f"load failed for model '{name}': version 1 is at UNAVAILABLE state: Internal: "
    assert refusals[name].rstrip("\n;") == f"{prefix}{kind}: {sentence}"


def test_refusals_carry_no_traceback_and_no_path(triton: BackendServer, refusals: dict[str, str]) -> None:
    told = "\n".join(refusals.values())
    assert "At:" not in told
    assert "Traceback" not in told
    assert str(triton.repository) not in told
    assert not re.search(r"\.py\b", told)
    log = triton.log
    assert all(sentence in log for _, _, _, sentence in REFUSED.values())
    assert "Traceback" not in log


def test_a_gpu_instance_without_a_gpu_is_refused(triton: BackendServer) -> None:
    gpu = configuration([X], [Y], "instance_group [{ kind: KIND_GPU }]")
    with pytest.raises(InferenceServerException, match="KIND_GPU"):
        triton.load("gpu", models.identity(), gpu)


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="strings made by numpy 1 can be sent")
def test_string_outputs_are_refused_with_numpy_2(triton: BackendServer) -> None:
    """Triton 2.51's Python backend cannot send strings made by numpy 2: it would answer with nothing."""
    with pytest.raises(InferenceServerException, match="output 'y' of TYPE_STRING needs numpy 1 on the embedded host"):
        triton.load("string_output", models.identity(TensorProto.STRING, [None, 1]), ONE_INSTANCE)


def model_config(triton: BackendServer, name: str) -> Any:
    return triton.client.get_model_config(name).config


def test_an_absent_configuration_is_completed(triton: BackendServer) -> None:
    triton.load("complete_all", models.classifier(), None)
    config = model_config(triton, "complete_all")
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    assert [(entry.name, entry.data_type, list(entry.dims)) for entry in config.input] == [
        ("attention_mask", 9, [-1]),  # 9 is TYPE_INT64
        ("input_ids", 9, [-1]),
    ]
    assert [(entry.name, entry.data_type, list(entry.dims)) for entry in config.output] == [("logits", 11, [2])]
    triton.wait_for_log(r"\nW.*autofilled max_batch_size to 4 for model 'complete_all'")
    ids = np.array([[1, 2, 3]], dtype=np.int64)
    result = triton.infer("complete_all", {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert result.as_numpy("logits").tolist() == [[6, 6]]


def test_a_partial_configuration_is_completed(triton: BackendServer) -> None:
    triton.load("complete_part", models.add(), f"max_batch_size: 16\noutput [{tensor('z', 'TYPE_FP32', [2])}]")
    config = model_config(triton, "complete_part")
    assert config.max_batch_size == 16
    assert [entry.name for entry in config.input] == ["a", "b"]
    assert [entry.name for entry in config.output] == ["z"]
    assert config.HasField("dynamic_batching")


def test_a_model_with_a_fixed_first_dimension_is_completed_without_batching(triton: BackendServer) -> None:
    triton.load("complete_fixed", models.identity(shape=[1, 2]), None)
    config = model_config(triton, "complete_fixed")
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [1, 2]
    assert not config.HasField("dynamic_batching")
    x = np.array([[1, 2]], dtype=np.float32)
    assert triton.infer("complete_fixed", {"x": x}).as_numpy("y").tolist() == [[1, 2]]


def test_a_scalar_model_is_completed(triton: BackendServer) -> None:
    triton.load("complete_scalar", models.scalar(), None)
    x = np.array([41], dtype=np.float32)
    assert triton.infer("complete_scalar", {"x": x}).as_numpy("y").tolist() == [42]


def test_a_file_of_another_name(triton: BackendServer) -> None:
    version = triton.repository / "other_file" / "1"
    (version / "deep").mkdir(parents=True)
    (version / "deep" / "other.onnx").write_bytes(models.identity().SerializeToString())
    triton.load("other_file", None, 'default_model_filename: "deep/other.onnx"')
    x = np.array([[5]], dtype=np.float32)
    assert triton.infer("other_file", {"x": x}).as_numpy("y").tolist() == [[5]]


@pytest.mark.parametrize(
    ("kind", "rank", "data_type", "expected"),
    [
        ("BATCH_ELEMENT_COUNT", 1, "TYPE_INT32", [6]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT", 1, "TYPE_FP32", [6]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", 1, "TYPE_INT32", [0, 6]),
        ("BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", 1, "TYPE_FP32", [0, 0, 0, 0, 0, 0]),
        ("BATCH_ITEM_SHAPE", 2, "TYPE_INT32", [[3], [3]]),
        ("BATCH_ITEM_SHAPE_FLATTEN", 1, "TYPE_FP32", [3, 3]),
    ],
)
def test_each_kind_of_batch_input_of_one_request(
    triton: BackendServer, kind: str, rank: int, data_type: str, expected: Any
) -> None:
    element_type = TensorProto.INT32 if data_type == "TYPE_INT32" else TensorProto.FLOAT
    name = f"echo_{kind.lower()}"
    config = configuration(
        [("x", "TYPE_FP32", [1]), ("flat", "TYPE_FP32", [-1], "allow_ragged_batch: true")],
        [("seen", data_type, [-1] * rank), ("ragged", "TYPE_FP32", [-1])],
        batch_input(kind, "made", "flat", data_type),
    )
    triton.load(name, models.batch_input_echo(rank, element_type), config)
    flat = np.arange(6, dtype=np.float32).reshape(2, 3)
    result = triton.infer(name, {"x": np.zeros((2, 1), dtype=np.float32), "flat": flat})
    assert result.as_numpy("seen").tolist() == [expected, expected]
    assert result.as_numpy("ragged").tolist() == [flat.ravel().tolist()] * 2


def load_ragged_sum(triton: BackendServer, name: str, more: str, max_batch_size: int = 64) -> None:
    inputs = [("ids", "TYPE_INT64", [-1], "allow_ragged_batch: true")]
    outputs = [("total", "TYPE_FP32", [1]), ("count", "TYPE_INT64", [1])]
    config = configuration(inputs, outputs, batch_input("BATCH_ITEM_SHAPE", "lengths", "ids") + more, max_batch_size)
    triton.load(name, models.ragged_sum(), config)


def test_requests_of_48_lengths_run_together(triton: BackendServer) -> None:
    load_ragged_sum(triton, "ragged", GATHER_A_BATCH)
    rows = [np.arange(length, dtype=np.int64)[None] for length in range(1, 49)]
    results = triton.infer_at_once("ragged", [{"ids": row} for row in rows])
    assert [result.as_numpy("total").item() for result in results] == [row.sum() for row in rows]
    inferences, executions = triton.statistics("ragged")
    assert inferences == 48
    assert executions < 12
    assert max(result.as_numpy("count").item() for result in results) > 100


def test_requests_of_several_rows_run_together(triton: BackendServer) -> None:
    load_ragged_sum(triton, "ragged_rows", GATHER_A_BATCH)
    blocks = [np.full((rows, 3 + rows), rows, dtype=np.int64) for rows in (2, 1, 3)]
    results = triton.infer_at_once("ragged_rows", [{"ids": block} for block in blocks])
    assert [result.as_numpy("total").tolist() for result in results] == [[[10], [10]], [[4]], [[18], [18], [18]]]
    assert triton.statistics("ragged_rows") == (6, 1)


def test_scattered_outputs(triton: BackendServer) -> None:
    config = configuration(
        [("x", "TYPE_FP32", [-1], "allow_ragged_batch: true")],
        [("y", "TYPE_FP32", [-1])],
        'batch_output [{ kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "y" source_input: "x" }]\n' + GATHER_A_BATCH,
    )
    triton.load("scatter", models.ragged_identity(), config)
    rows = [np.arange(length, dtype=np.float32)[None] for length in (3, 1, 2)]
    results = triton.infer_at_once("scatter", [{"x": row} for row in rows])
    assert [result.as_numpy("y").tolist() for result in results] == [(2 * row).tolist() for row in rows]
    assert triton.statistics("scatter") == (3, 1)


def test_only_the_guilty_request_of_a_batch_fails(triton: BackendServer) -> None:
    config = configuration([("index", "TYPE_INT64", [1])], [("y", "TYPE_FP32", [1])], GATHER_A_BATCH)
    triton.load("gather", models.gather(), config)
    results = triton.infer_at_once("gather", [{"index": np.array([[index]])} for index in (0, 1, 77, 3)])
    assert [result.as_numpy("y").item() for result in (*results[:2], results[3])] == [10, 11, 13]
    error = results[2]
    assert isinstance(error, InferenceServerException)
    assert error.status() == "StatusCode.INTERNAL"
    assert error.message().startswith("onnx runtime error 2: Non-zero status code returned while running Gather node.")
    assert "idx=77" in error.message()
    assert not re.search(r"\.cc\b|\.py\b|Traceback|\n", error.message())
    assert triton.statistics("gather")[1] == 1
    assert "idx=77" not in triton.log


def test_only_the_request_with_invalid_utf8_fails(triton: BackendServer) -> None:
    config = configuration([("text", "TYPE_STRING", [1])], [("y", "TYPE_FP32", [1])], GATHER_A_BATCH)
    triton.load("strings", models.text_to_number(), config)
    texts = [b"1.5", b"\xff\xfe", b"-2"]
    first, error, third = triton.infer_at_once(
        "strings", [{"text": np.array([[text]], dtype=object)} for text in texts]
    )
    assert [first.as_numpy("y").item(), third.as_numpy("y").item()] == [1.5, -2]
    assert error.status() == "StatusCode.INVALID_ARGUMENT"
    assert error.message() == "input 'text': element 0 is not valid UTF-8"
    assert triton.statistics("strings")[1] == 1


def test_each_data_type(triton: BackendServer) -> None:
    triton.load("types", models.identities(), ONE_INSTANCE)
    inputs = {dtype: np.array([[0, 1, 1, 100]]).astype(dtype) for dtype in models.NUMERIC_TYPES}
    result = triton.infer("types", inputs)
    outputs = {dtype: result.as_numpy(f"same_{dtype}") for dtype in inputs}
    assert {dtype: output.dtype.name for dtype, output in outputs.items()} == {dtype: dtype for dtype in inputs}
    assert {dtype: output.tolist() for dtype, output in outputs.items()} == {
        dtype: array.tolist() for dtype, array in inputs.items()
    }


def test_only_the_requested_outputs_are_sent(triton: BackendServer) -> None:
    pair = [("a", "TYPE_FP32", [2]), ("b", "TYPE_FP32", [2])]
    config = configuration(pair, [("z", "TYPE_FP32", [2]), ("y", "TYPE_FP32", [2])])
    triton.load("add", models.add(), config)
    inputs = {name: np.array([[3, value]], dtype=np.float32) for name, value in (("a", 5), ("b", 1))}
    only_z = triton.infer("add", inputs, ["z"])
    assert [output.name for output in only_z.get_response().outputs] == ["z"]
    assert only_z.as_numpy("z").tolist() == [[0, 4]]
    both = triton.infer("add", inputs)
    assert both.as_numpy("y").tolist() == [[6, 6]]
    assert both.as_numpy("z").tolist() == [[0, 4]]


def test_every_instance_loads_a_session(triton: BackendServer) -> None:
    config = configuration([X], [Y], "instance_group [{ count: 3 kind: KIND_CPU }]\ndynamic_batching {}")
    triton.load("instances", models.identity(), config)
    for number in range(3):
        triton.wait_for_log(rf"Created session for instance: instances_0_{number} \(CPUExecutionProvider\)")
    rows = [np.full((1, 2), number, dtype=np.float32) for number in range(30)]
    results = triton.infer_at_once("instances", [{"x": row} for row in rows])
    assert [result.as_numpy("y").tolist() for result in results] == [row.tolist() for row in rows]


def test_a_cancelled_request_does_not_run(triton: BackendServer) -> None:
    config = configuration([("x", "TYPE_FP32", [1])], [("y", "TYPE_FP32", [1])], GATHER_NOTHING, max_batch_size=1)
    triton.load("slow", models.slow(), config)

    def inputs(rounds: int) -> dict[str, Any]:
        return {"x": np.array([[rounds]], dtype=np.float32)}

    def send(rounds: int) -> Any:
        return triton.client.async_infer(
            "slow", triton_inputs(inputs(rounds)), lambda *_: None, client_timeout=CALL_TIMEOUT_S
        )

    begin = time.monotonic()
    triton.infer("slow", inputs(20))
    one_run_s = time.monotonic() - begin
    begin = time.monotonic()
    send(20)
    time.sleep(one_run_s / 4)
    waiting = send(400)
    time.sleep(one_run_s / 4)
    waiting.cancel()
    triton.infer("slow", inputs(1))
    assert time.monotonic() - begin < 10 * one_run_s
