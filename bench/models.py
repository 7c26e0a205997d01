"""The classifiers that are measured, each in every form a system needs, made once under `build/bench/models`."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from tokenizers import Tokenizer

from bench.bert_graph import padded_float32
from bench.contract import ModelFiles
from bench.dequantize import bert_config, read_packed
from bench.paths import BUILD, REPOSITORY, ROOT
from rejection_server.graph.packed import to_packed

Report = Callable[[str], None]

CODE = Path(__file__).parent

LARGEST_LOGIT_DIFFERENCE = 0.25
MEAN_LOGIT_DIFFERENCE = 0.05
"""Between the committed int8 model and its float32 form, whose activations are not rounded."""


class ModelError(RuntimeError):
    """A model cannot be had in a form that is needed; the message says why."""


def find_model(name: str, report: Report, *, checkpoint: bool = True) -> ModelFiles:
    """The model in all its forms, made if need be.

    Args:
        name: `bundled`, `distilroberta` (its shape, with seeded random weights), or a checkpoint folder or hub id.
        report: told what is going on.
        checkpoint: whether a Hugging Face checkpoint of `bundled` is needed, for which `safetensors` is.

    Raises:
        ModelError: It cannot be made.
    """
    if name == "bundled":
        return bundled(report, checkpoint=checkpoint)
    return _of_checkpoint(name, report)


def bundled(report: Report, *, checkpoint: bool) -> ModelFiles:
    """The committed model, and its float32 form with the same weights: see `bench.dequantize`, `bench.bert_graph`."""
    served = REPOSITORY / "classifier" / "1" / "model.onnx"
    labels = tuple((REPOSITORY / "classifier" / "labels.txt").read_text(encoding="utf-8").split())
    tokenizer = REPOSITORY / "tokenizer" / "1" / "tokenizer.json"
    code = [
        CODE / "dequantize.py",
        CODE / "bert_graph.py",
        *sorted((ROOT / "server/rejection_server/graph").glob("*.py")),
    ]
    folder = BUILD / "models" / f"bundled-{_key(served, *code)}"
    if not folder.is_dir():
        report("bundled: making its float32 form out of the committed int8 weights")
        with _made_at(folder) as work:
            bert = read_packed(onnx.load(served))
            padded = padded_float32(bert)
            onnx.save(padded, work / "float32.onnx")
            quantize(work / "float32.onnx", work / "int8.onnx")
            repository = work / "repository-float32"
            shutil.copytree(
                REPOSITORY, repository, ignore=shutil.ignore_patterns("__pycache__", "model.onnx", "model.json")
            )
            onnx.save(to_packed(padded, heads=bert.heads), repository / "classifier" / "1" / "model.onnx")
            _check_equal(work / "float32.onnx", served, tokenizer)
    if checkpoint and not (folder / "checkpoint").is_dir():
        report("bundled: writing its Hugging Face checkpoint")
        with _made_at(folder / "checkpoint") as work:
            _write_checkpoint(served, work, tokenizer, labels)
    return ModelFiles(
        name="bundled",
        tokenizer=tokenizer,
        checkpoint=folder / "checkpoint" if checkpoint else None,
        float32=folder / "float32.onnx",
        int8=folder / "int8.onnx",
        repositories={"float32": folder / "repository-float32", "int8": REPOSITORY},
        max_length=512,
        labels=labels,
    )


def _of_checkpoint(name: str, report: Report) -> ModelFiles:
    """A model of `scripts/prepare`: made in an environment of its own, with PyTorch."""
    title = "distilroberta" if name == "distilroberta" else Path(name).name
    code = [
        CODE / "random_model.py",
        CODE / "make_model.py",
        *sorted((ROOT / "server/rejection_server/graph").glob("*.py")),
        *sorted((ROOT / "server/rejection_server/prepare/templates").glob("*.pbtxt")),
        *sorted((REPOSITORY / "tokenizer" / "1").glob("*.py")),
    ]
    folder = BUILD / "models" / f"{title}-{_key(*code, text=name)}"
    if not folder.is_dir():
        python = _environment_with_torch(report)
        report(f"{title}: making its served repositories, float32 and int8 (minutes)")
        with _made_at(folder) as work:
            done = subprocess.run(
                [python, "-m", "bench.make_model", name, work],
                env={"PYTHONPATH": f"{ROOT / 'server'}:{ROOT / 'tests'}", **_kept_environment()},
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            if done.returncode:
                raise ModelError(f"{name} could not be made:\n{done.stderr.strip()[-2000:]}")
    facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return ModelFiles(
        name=title,
        tokenizer=folder / "repository-int8" / "tokenizer" / "1" / "tokenizer.json",
        checkpoint=folder / "checkpoint",
        float32=folder / "float32.onnx",
        int8=folder / "int8.onnx",
        repositories={precision: folder / f"repository-{precision}" for precision in ("float32", "int8")},
        max_length=facts["model_max_length"],
        labels=tuple(facts["labels"]),
    )


def token_ids(model: ModelFiles, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of the texts, truncated to what the model takes."""
    tokenizer = Tokenizer.from_file(str(model.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(model.max_length)
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def quantize(padded: Path, path: Path) -> None:
    """What people run who write their server by hand: onnxruntime's dynamic int8, one activation scale per tensor."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it recommends a step that changes nothing for these models
    # The exporter's shapes of inner values are those of its example, which the quantiser would believe.
    quantize_dynamic(padded, path, weight_type=QuantType.QInt8)


def _check_equal(padded: Path, served: Path, tokenizer: Path) -> None:
    """Raise ModelError unless both graphs give the same logits, rounding of activations aside."""
    rough, exact = session(served), session(padded)
    reader = Tokenizer.from_file(str(tokenizer))
    differences = []
    for text in (
        "Sorry, but I can't assist with that.",
        "Boil the water first.",
        "The answer is 42, and the reason is a long story. " * 9,
    ):
        ids = np.asarray(reader.encode(text).ids, np.int64)
        (ours,) = rough.run(["logits"], {"input_ids": ids, "sequence_lengths": np.asarray([[len(ids)]], np.int32)})
        (float32,) = exact.run(["logits"], {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)})
        differences.append(float(np.abs(ours - float32).max()))
    if max(differences) > LARGEST_LOGIT_DIFFERENCE or np.mean(differences) > MEAN_LOGIT_DIFFERENCE:
        raise ModelError(f"the float32 form of {served} gives other logits: they differ by {max(differences):.3f}")


def _write_checkpoint(served: Path, folder: Path, tokenizer: Path, labels: tuple[str, ...]) -> None:
    from safetensors.numpy import save_file

    bert = read_packed(onnx.load(served))
    save_file(bert.weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = bert_config(bert, labels)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 512, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(tokenizer, folder / "tokenizer.json")


def _environment_with_torch(report: Report) -> Path:
    """Interpreter of an environment that has PyTorch beside what this one has."""
    folder = BUILD / "env-models"
    python = folder / "bin" / "python"
    stamp = folder / ".installed"
    requirements = [ROOT / "requirements" / name for name in ("prepare.txt", "export.txt")]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in requirements)).hexdigest()
    if stamp.is_file() and stamp.read_text() == key:
        return python
    report("models: making an environment with PyTorch (large)")
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    packages = next((folder / "lib").glob("python*/site-packages"))
    # What serving needs is there already.
    base = next((ROOT / ".venv" / "lib").glob("python*/site-packages"))
    (packages / "serving.pth").write_text(f"{base}\n")
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "--require-hashes", "-r", str(requirements[0])])
    _run([*pip, "-r", str(requirements[1])])
    stamp.write_text(key)
    return python


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=_kept_environment(), check=False)
    if done.returncode:
        raise ModelError(f"{' '.join(command[:4])} ... failed:\n{(done.stdout + done.stderr).strip()[-2000:]}")


def _kept_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _key(*files: Path, text: str = "") -> str:
    """What the forms are made of: files, and a name."""
    digest = hashlib.sha256(text.encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


@contextmanager
def _made_at(folder: Path) -> Iterator[Path]:
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
