"""The classifiers that are measured, each in every form a system needs, made once under `build/bench/models`."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime
from tokenizers import Tokenizer

from bench.compose import mixed_texts
from bench.contract import ModelFiles
from bench.random_model import silent_transformers, write_checkpoint
from bench.settings import BUILD, REPOSITORY, ROOT
from rejection_server.prepare import pipeline
from rejection_server.prepare.describe import describe
from rejection_server.prepare.isolated import isolated
from rejection_server.prepare.options import Options
from rejection_server.prepare.reference import has_torch
from rejection_server.prepare.source import find_source

Report = Callable[[str], None]


def find_model(name: str, report: Report) -> ModelFiles:
    """The model in all its forms, made if need be.

    Args:
        name: `bundled`, `distilroberta` (its shape, with seeded random weights), or a checkpoint folder or hub id.
        report: told what is going on.

    Raises:
        PrepareError: It cannot be made.
    """
    if name == "bundled":
        labels = (REPOSITORY / "classifier" / "labels.txt").read_text(encoding="utf-8").split()
        served = REPOSITORY / "classifier" / "1" / "model.onnx"
        tokenizer = REPOSITORY / "tokenizer" / "1" / "tokenizer.json"
        return ModelFiles("bundled", tokenizer, {"int8": served}, {"int8": REPOSITORY}, 512, tuple(labels))
    folder = _folder(name)
    if not folder.is_dir():
        report(f"{name}: making its served repositories, float32 and int8 (minutes)")
        with made_at(folder) as work:
            _make(name, work, report)
    repositories = {precision: folder / f"repository-{precision}" for precision in ("float32", "int8")}
    facts = json.loads((repositories["int8"] / "classifier" / "1" / "model.json").read_text(encoding="utf-8"))
    return ModelFiles(
        name=Path(name).name,
        tokenizer=repositories["int8"] / "tokenizer" / "1" / "tokenizer.json",
        graphs={precision: folder / f"{precision}.onnx" for precision in ("float32", "int8")},
        repositories=repositories,
        max_length=facts["model_max_length"],
        labels=tuple(facts["labels"]),
        checkpoint=folder / "checkpoint",
    )


def lacks_torch(name: str) -> bool:
    """Whether the model has yet to be made, with PyTorch, and PyTorch is not installed."""
    return name == "distilroberta" and not has_torch() and not _folder(name).is_dir()


def token_ids(model: ModelFiles, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of the texts, truncated to what the model takes."""
    tokenizer = Tokenizer.from_file(str(model.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(model.max_length)
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def session(model: Path | bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU, of a file or of a graph in memory."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    given = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def quantize(padded: Path, path: Path) -> None:
    """What people run who write their server by hand: onnxruntime's dynamic int8, one activation scale per tensor."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it recommends a step that changes nothing for these models
    quantize_dynamic(padded, path, weight_type=QuantType.QInt8)


def write_padded(checkpoint: Path, exported: Path | None, max_length: int, path: Path) -> None:
    """Write the padded float32 graph as one file: the checkpoint's own, or exported. Run it in a process of its own."""
    if exported is not None:
        graph = onnx.load(exported)
    else:
        from rejection_server.graph.from_torch import exported as export

        model = silent_transformers().AutoModelForSequenceClassification.from_pretrained(
            checkpoint, attn_implementation="eager"
        )
        graph = export(model.float().eval(), max_length).model_proto
    del graph.graph.value_info[:]  # shapes of the exporter's example, which the quantiser would believe
    onnx.save(graph, path)


def _folder(name: str) -> Path:
    """Where the forms of a model are, which their name, and the code that makes them, decide."""
    code = [Path(__file__), Path(__file__).with_name("random_model.py"), *(REPOSITORY / "tokenizer" / "1").glob("*.py")]
    code += [*(ROOT / "server/rejection_server/graph").glob("*.py")]
    prepare = ROOT / "server/rejection_server/prepare"
    code += [*(prepare / "templates").glob("*.pbtxt"), prepare / "configuration.py", prepare / "contract.py"]
    digest = hashlib.sha256(name.encode())
    for path in sorted(code):
        digest.update(path.read_bytes())
    return BUILD / "models" / f"{Path(name).name}-{digest.hexdigest()[:10]}"


def _make(name: str, folder: Path, report: Report) -> None:
    checkpoint, padded = folder / "checkpoint", folder / "float32.onnx"
    if name == "distilroberta":
        isolated(write_checkpoint, checkpoint, mixed_texts()[:48])
        name = str(checkpoint)
    source = find_source(name, None, has_torch=has_torch())
    if source.folder != checkpoint:
        shutil.copytree(source.folder, checkpoint)
    longest = isolated(describe, checkpoint, None, None).model_max_length
    isolated(write_padded, checkpoint, checkpoint / source.onnx if source.onnx else None, longest, padded)
    isolated(quantize, padded, folder / "int8.onnx")
    # Without weights the exported graph is what the repositories are made of, and compared with.
    graph = folder / "graph"
    shutil.copytree(checkpoint, graph, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin*", "*onnx*"))
    (graph / "onnx").mkdir()
    (graph / "onnx" / "model.onnx").hardlink_to(padded)
    for precision, served in (("float32", "fp32"), ("int8", "int8")):
        # Whether int8 is good enough for this model is not asked here: the benchmark states the difference.
        options = Options(
            model=str(graph),
            output=folder / f"repository-{precision}",
            precision=served,  # type: ignore[arg-type]  # a literal that a loop widens to str
            agreement=0,
            largest=1,
            mean=1,
        )
        pipeline.prepare(options, report)


@contextmanager
def made_at(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` if all goes well; of two that are made at once the first one stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        yield work
        try:
            work.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
