"""The peers, and how each is started."""

from pathlib import Path

from bench.peers import checkpoint, environment
from bench.peers.callers import HttpCaller, InfinityCaller, PipelineCaller, V2Caller
from bench.peers.peer import Peer, PeerError, Program, Start
from bench.peers.process import run
from bench.peers.rows import Settings, model_exists

CALIBRATION_TEXTS = environment.PEERS.parents[1] / "tests" / "data" / "responses.jsonl"
TIMEOUT_MS = 300_000
"""mosec gives up after 3 s unless told otherwise."""
INFINITY_BATCH = 4
MLSERVER_BATCH = 4
MLSERVER_WAIT_S = 0.005


def prepare_mosec_onnx(start: Start) -> Program:
    """mosec with onnxruntime."""
    return _mosec(start, _onnx(start))


def prepare_mosec_openvino(start: Start) -> Program:
    """mosec with OpenVINO, the model quantised on the first start."""
    stamp = start.model.float32.stat()
    converted = start.cache / f"{start.model.name}-{stamp.st_size}-{stamp.st_mtime_ns}.xml"
    if not model_exists(converted):
        start.report(f"mosec with OpenVINO: quantising {start.model.name} with NNCF (minutes)")
        run(
            [
                *(start.python, start.program / "convert.py", start.model.float32, converted),
                *("--tokenizer", start.model.tokenizer, "--max-length", str(start.model.max_length)),
                *("--texts", CALIBRATION_TEXTS),
            ]
        )
    return _mosec(start, converted)


def prepare_litserve(start: Start) -> Program:
    """LitServe with onnxruntime."""
    command = [start.python, start.program / "server.py"]
    settings = _settings(start, _onnx(start)).to_environment()
    return Program(command, HttpCaller(f"http://127.0.0.1:{start.port}/predict"), settings)


def prepare_fastapi(start: Start) -> Program:
    """`transformers` behind FastAPI."""
    folder = checkpoint.copied(start.model, start.folder / "model")
    command = [
        *(start.python, "-m", "uvicorn", "server:app", "--app-dir", start.program, "--workers", str(start.cores)),
        *("--host", "127.0.0.1", "--port", str(start.port), "--no-access-log", "--timeout-keep-alive", "120"),
    ]
    caller = PipelineCaller(f"http://127.0.0.1:{start.port}/classify", start.model.labels)
    return Program(command, caller, {"BENCH_PEER_CHECKPOINT": str(folder)})


def prepare_infinity_torch(start: Start) -> Program:
    """infinity with PyTorch: one process, so all cores for one batch."""
    folder = checkpoint.copied(start.model, start.folder / "model")
    return _infinity(start, folder, "torch", {"OMP_NUM_THREADS": str(start.cores)})


def prepare_infinity_optimum(start: Start) -> Program:
    """infinity with Optimum and onnxruntime."""
    folder = checkpoint.copied(start.model, start.folder / "model")
    (folder / "model.onnx").symlink_to(_onnx(start))
    return _infinity(start, folder, "optimum", {})


def prepare_mlserver(start: Start) -> Program:
    """MLServer's Hugging Face runtime: `transformers` at float32, Optimum with onnxruntime at int8."""
    folder = checkpoint.copied(start.model, start.folder / "model")
    optimum = start.precision == "int8"
    if optimum:
        (folder / "model.safetensors").unlink()
        (folder / "model.onnx").symlink_to(_onnx(start))
    checkpoint.write_json(
        start.folder / "settings.json",
        {
            "debug": False,
            "host": "127.0.0.1",
            "http_port": start.port,
            "grpc_port": (port := start.free_port()),
            "metrics_port": start.free_port(),
            "parallel_workers": start.cores,
        },
    )
    checkpoint.write_json(
        start.folder / "model-settings.json",
        {
            "name": "classifier",
            "implementation": "truncating.Runtime",
            "max_batch_size": MLSERVER_BATCH,
            "max_batch_time": MLSERVER_WAIT_S,
            "parameters": {
                "extra": {
                    "task": "text-classification",
                    "pretrained_model": str(folder),
                    "pretrained_tokenizer": str(folder),
                    "framework": "pt",
                    "optimum_model": optimum,
                    # Not inter_op_threads: the runtime sets them twice, which torch refuses.
                    "intra_op_threads": 1,
                }
            },
        },
    )
    (start.folder / "truncating.py").symlink_to(start.program / "truncating.py")
    command = [start.python.parent / "mlserver", "start", start.folder]
    return Program(command, V2Caller(f"127.0.0.1:{port}", "classifier", start.model.labels), {})


def _mosec(start: Start, model: Path) -> Program:
    command = [
        *(start.python, start.program / "server.py", "--address", "127.0.0.1", "--port", str(start.port)),
        *("--timeout", str(TIMEOUT_MS), "--log-level", "warning"),
    ]
    settings = _settings(start, model).to_environment()
    return Program(command, HttpCaller(f"http://127.0.0.1:{start.port}/inference"), settings)


def _infinity(start: Start, folder: Path, engine: str, settings: dict[str, str]) -> Program:
    command = [
        *(start.python, start.program / "server.py", "v2", "--model-id", folder, "--served-model-name", "classifier"),
        *("--engine", engine, "--device", "cpu", "--dtype", "float32", "--batch-size", str(INFINITY_BATCH)),
        *("--host", "127.0.0.1", "--port", str(start.port), "--log-level", "warning"),
        *("--no-compile", "--no-bettertransformer", "--no-model-warmup", "--no-lengths-via-tokenize"),
    ]
    caller = InfinityCaller(f"http://127.0.0.1:{start.port}/classify", "classifier", start.model.labels)
    return Program(command, caller, {"INFINITY_ANONYMOUS_USAGE_STATS": "0", **settings})


def _settings(start: Start, model: Path) -> Settings:
    return Settings(
        model=str(model),
        tokenizer=str(start.model.tokenizer.resolve()),
        max_length=start.model.max_length,
        workers=start.cores,
        port=start.port,
    )


def _onnx(start: Start) -> Path:
    path = {"float32": start.model.float32, "int8": start.model.int8}[start.precision].resolve()
    if not path.exists():
        raise PeerError(f"{path}, the {start.precision} form of {start.model.name}, does not exist")
    return path


PEERS = (
    Peer(
        name="mosec-ort",
        title="mosec, onnxruntime",
        precisions=("int8", "float32"),
        folder="mosec-ort",
        prepare=prepare_mosec_onnx,
        notes="A worker process of one thread for each core; rows one by one, without padding; tokenizers (Rust).",
    ),
    Peer(
        name="mosec-openvino",
        title="mosec, OpenVINO",
        precisions=("int8",),
        folder="mosec-openvino",
        prepare=prepare_mosec_openvino,
        notes="As mosec with onnxruntime; static int8 by NNCF, calibrated on texts of the benchmark's kind.",
    ),
    Peer(
        name="litserve-ort",
        title="LitServe, onnxruntime",
        precisions=("int8", "float32"),
        folder="litserve-ort",
        prepare=prepare_litserve,
        notes="A worker process of one thread for each core, ZeroMQ queues; rows one by one, tokenizers (Rust).",
    ),
    Peer(
        name="fastapi",
        title="FastAPI, transformers",
        precisions=("float32",),
        folder="fastapi",
        prepare=prepare_fastapi,
        notes="A uvicorn worker of one torch thread for each core; a transformers pipeline, one request at a time.",
    ),
    Peer(
        name="infinity",
        title="infinity, torch",
        precisions=("float32",),
        folder="infinity",
        prepare=prepare_infinity_torch,
        notes=f"One process, torch threads on all cores, dynamic batches of up to {INFINITY_BATCH} sorted by length; "
        "it strips white space around a text before scoring it.",
    ),
    Peer(
        name="infinity-optimum",
        title="infinity, Optimum",
        precisions=("int8", "float32"),
        folder="infinity",
        prepare=prepare_infinity_optimum,
        notes=f"One process, onnxruntime on all cores, dynamic batches of up to {INFINITY_BATCH} sorted by length; "
        "truncation added, which its classifier lacks; it strips white space around a text before scoring it.",
    ),
    Peer(
        name="mlserver",
        title="MLServer, Hugging Face runtime",
        precisions=("float32", "int8"),
        folder="mlserver",
        prepare=prepare_mlserver,
        notes=f"A worker process of one thread for each core, gRPC (V2), adaptive batches of up to {MLSERVER_BATCH} "
        f"within {MLSERVER_WAIT_S * 1000:.0f} ms; int8 through Optimum; truncation set as the pipeline's default, "
        "since request options cannot be batched; without TensorFlow, which its runtime imports but needs for its own "
        "models only; imports of names that torch and transformers have dropped are mended.",
    ),
)
"""In the order of their strength on paper."""
