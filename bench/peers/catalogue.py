"""The peers, and how each is started."""

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from bench.contract import ModelFiles
from bench.models import token_ids
from bench.peers.callers import HttpCaller, InfinityCaller, PipelineCaller, V2Caller
from bench.peers.environment import PEERS as FOLDER
from bench.peers.environment import own_environment
from bench.peers.peer import Peer, PeerError, Program, Start
from bench.ports import free_ports
from bench.settings import ROOT
from load.texts import read

CALIBRATION_TEXTS = ROOT / "tests" / "data" / "responses.jsonl"
CALIBRATING = 128
JOINED = 8
"""So many texts make a long one for calibration, up to the longest that the model takes."""
TIMEOUT_MS = 300_000
"""mosec gives up after 3 s unless told otherwise."""
BATCH = 4
"""Of the peers that pad batches: on a CPU larger ones lose more to padding than they gain."""
MLSERVER_WAIT_S = 0.005


def _mosec(start: Start, graph: Path | None = None) -> Program:
    command: list[str | Path] = [
        *(start.python, FOLDER / "mosec_server.py", "--address", "127.0.0.1", "--port", str(start.port)),
        *("--timeout", str(TIMEOUT_MS), "--log-level", "warning"),
    ]
    return _rows(start, command, "inference", graph or start.model.graphs[start.precision])


def _mosec_openvino(start: Start) -> Program:
    float32 = start.model.graphs["float32"]
    stamp = float32.stat()
    converted = start.cache / f"{start.model.name}-{stamp.st_size}-{stamp.st_mtime_ns}.xml"
    # Its graph is written after its weights.
    if not (converted.exists() and converted.with_suffix(".bin").exists()):
        start.report(f"mosec with OpenVINO: quantising {start.model.name} with NNCF (minutes)")
        known = read(CALIBRATION_TEXTS)
        long = ["\n".join(known[number : number + JOINED]) for number in range(0, len(known), JOINED)]
        rows = start.folder / "rows.json"
        rows.write_text(json.dumps(token_ids(start.model, (long + known)[:CALIBRATING])))
        run([start.python, start.program / "convert.py", float32, converted, rows])
    return _mosec(start, converted)


def _litserve(start: Start) -> Program:
    return _rows(start, [start.python, start.program / "server.py"], "predict", start.model.graphs[start.precision])


def _rows(start: Start, command: list[str | Path], path: str, graph: Path) -> Program:
    """A hand-written server over rows.py."""
    given = {
        "model": str(graph.resolve()),
        "tokenizer": str(start.model.tokenizer.resolve()),
        "max_length": start.model.max_length,
        "workers": start.cores,
        "port": start.port,
    }
    settings = {"BENCH_PEER_SETTINGS": json.dumps(given), "PYTHONPATH": str(FOLDER)}
    return Program(command, HttpCaller(f"http://127.0.0.1:{start.port}/{path}", start.model.labels), settings)


def _fastapi(start: Start) -> Program:
    folder = checkpoint(start.model, start.folder / "model")
    command: list[str | Path] = [
        *(start.python, "-m", "uvicorn", "server:app", "--app-dir", start.program, "--workers", str(start.cores)),
        *("--host", "127.0.0.1", "--port", str(start.port), "--no-access-log", "--timeout-keep-alive", "120"),
    ]
    caller = PipelineCaller(f"http://127.0.0.1:{start.port}/classify", start.model.labels)
    return Program(command, caller, {"BENCH_PEER_CHECKPOINT": str(folder)})


def _infinity(start: Start, engine: str) -> Program:
    folder = checkpoint(start.model, start.folder / "model")
    if engine == "optimum":
        (folder / "model.onnx").symlink_to(start.model.graphs[start.precision].resolve())
    command: list[str | Path] = [
        *(start.python, start.program / "server.py", "v2", "--model-id", folder, "--served-model-name", "classifier"),
        *("--engine", engine, "--device", "cpu", "--dtype", "float32", "--batch-size", str(BATCH)),
        *("--host", "127.0.0.1", "--port", str(start.port), "--log-level", "warning"),
        *("--no-compile", "--no-bettertransformer", "--no-model-warmup", "--no-lengths-via-tokenize"),
    ]
    caller = InfinityCaller(f"http://127.0.0.1:{start.port}/classify", start.model.labels)
    # With PyTorch one process computes: all cores for one batch.
    threads = {"OMP_NUM_THREADS": str(start.cores)} if engine == "torch" else {}
    return Program(command, caller, {"INFINITY_ANONYMOUS_USAGE_STATS": "0", **threads})


def _mlserver(start: Start) -> Program:
    folder = checkpoint(start.model, start.folder / "model")
    if start.precision == "int8":
        (folder / "model.safetensors").unlink()
        (folder / "model.onnx").symlink_to(start.model.graphs["int8"].resolve())
    ports = {"http_port": start.port, **dict(zip(("grpc_port", "metrics_port"), free_ports(2), strict=True))}
    settings = {"debug": False, "host": "127.0.0.1", "parallel_workers": start.cores, **ports}
    _write_json(start.folder / "settings.json", settings)
    extra = {
        "task": "text-classification",
        "pretrained_model": str(folder),
        "pretrained_tokenizer": str(folder),
        "framework": "pt",
        "optimum_model": start.precision == "int8",
        # Not inter_op_threads: the runtime sets them twice, which torch refuses.
        "intra_op_threads": 1,
    }
    model = {
        "name": "classifier",
        "implementation": "truncating.Runtime",
        "max_batch_size": BATCH,
        "max_batch_time": MLSERVER_WAIT_S,
        "parameters": {"extra": extra},
    }
    _write_json(start.folder / "model-settings.json", model)
    (start.folder / "truncating.py").symlink_to(start.program / "truncating.py")
    command: list[str | Path] = [start.python.parent / "mlserver", "start", start.folder]
    return Program(command, V2Caller(f"127.0.0.1:{ports['grpc_port']}", start.model.labels))


def run(command: list[str | Path]) -> None:
    """Run a peer's own program to its end; raises CalledProcessError, whose `stderr` has what it said."""
    subprocess.run(
        command, check=True, capture_output=True, text=True, env=own_environment() | {"PYTHONPATH": str(FOLDER)}
    )


def checkpoint(model: ModelFiles, folder: Path) -> Path:
    """Make `folder` a checkpoint that every version of `transformers` reads alike, truncated at the model's length.

    Raises:
        PeerError: The model has no checkpoint.
    """
    if model.checkpoint is None:
        raise PeerError(f"{model.name} has no Hugging Face checkpoint, which this peer needs: it exists as ONNX only")
    source, name = model.checkpoint.resolve(), "tokenizer_config.json"
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.name != name:
            (folder / path.name).symlink_to(path)
    config = json.loads((source / "config.json").read_text())
    known = json.loads((source / name).read_text()) if (source / name).exists() else {}
    _write_json(folder / name, tokenizer_settings(known, config, model.max_length))
    return folder


def tokenizer_settings(known: dict[str, Any], config: dict[str, Any], max_length: int) -> dict[str, Any]:
    """Tokenizer settings of a checkpoint, for truncation to `max_length` tokens.

    A class that only one generation of `transformers` has is replaced by the one that reads `tokenizer.json` in all.
    """
    settings = {**known, "model_max_length": max_length}
    if settings.get("tokenizer_class") in (None, "TokenizersBackend"):
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        types = [] if config.get("type_vocab_size", 0) in (0, 1) else ["token_type_ids"]
        settings["model_input_names"] = ["input_ids", *types, "attention_mask"]
    return settings


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


ONE_BY_ONE = "a worker process of one thread for each core; rows one by one, without padding; tokenizers (Rust)."
PADDED = f"dynamic batches of up to {BATCH} sorted by length; it strips white space around a text before scoring it."
PEERS = (
    Peer("mosec-ort", "mosec, onnxruntime", ("int8", "float32"), "mosec-ort", _mosec, f"A Rust front, {ONE_BY_ONE}",
         serves_bundled=True),
    Peer("mosec-openvino", "mosec, OpenVINO", ("int8",), "mosec-openvino", _mosec_openvino,
         "As mosec with onnxruntime; static int8 by NNCF, calibrated on texts of the benchmark's kind."),
    Peer("litserve-ort", "LitServe, onnxruntime", ("int8", "float32"), "litserve-ort", _litserve,
         f"ZeroMQ queues, {ONE_BY_ONE}", serves_bundled=True),
    Peer("fastapi", "FastAPI, transformers", ("float32",), "fastapi", _fastapi,
         "A uvicorn worker of one torch thread for each core; a transformers pipeline, one request at a time."),
    Peer("infinity", "infinity, torch", ("float32",), "infinity", partial(_infinity, engine="torch"),
         f"One process, torch threads on all cores, {PADDED}"),
    Peer("infinity-optimum", "infinity, Optimum", ("int8", "float32"), "infinity", partial(_infinity, engine="optimum"),
         f"One process, onnxruntime on all cores, truncation added, which its classifier lacks; {PADDED}"),
    Peer("mlserver", "MLServer, Hugging Face runtime", ("float32", "int8"), "mlserver", _mlserver,
         f"A worker process of one thread for each core, gRPC (V2), adaptive batches of up to {BATCH} within "
         f"{MLSERVER_WAIT_S * 1000:.0f} ms; int8 through Optimum; truncation set as the pipeline's default, "
         "since request options cannot be batched; without TensorFlow, which its runtime imports but needs for its own "
         "models only; imports of names that torch and transformers have dropped are mended."),
)  # fmt: skip
"""In the order of their strength on paper."""
