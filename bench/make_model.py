"""Make a checkpoint's served repositories and the ONNX files that other systems take: run where PyTorch is.

python -m bench.make_model distilroberta|FOLDER|HUB_ID OUTPUT
"""

import json
import shutil
import sys
from pathlib import Path

import onnx

from bench.compose import ROBERTA_TOKENIZER, mixed_texts, roberta_tokenizer
from bench.models import quantize
from bench.random_model import write_checkpoint
from rejection_server.prepare import pipeline
from rejection_server.prepare.describe import describe
from rejection_server.prepare.isolated import isolated
from rejection_server.prepare.reference import answers_of_torch
from rejection_server.prepare.source import find_source


def main(name: str, output: Path) -> None:
    """Make everything in `output`."""
    checkpoint = output / "checkpoint"
    if name == "distilroberta":
        texts = mixed_texts()[:48]
        rows = [encoding.ids[:512] for encoding in roberta_tokenizer().encode_batch(texts)]
        isolated(write_checkpoint, checkpoint, ROBERTA_TOKENIZER, rows)
        name = str(checkpoint)
    source = find_source(name, None, has_torch=True, allow_pickle=False)
    if not checkpoint.exists():
        shutil.copytree(source.folder, checkpoint)
    model = isolated(describe, source.folder, mixed_texts()[:200], None, output / "tokenizer.json")
    _padded(source, model, output / "float32.onnx")
    isolated(quantize, output / "float32.onnx", output / "int8.onnx")
    # The exported graph beside the weights spares exporting twice more.
    (checkpoint / "onnx").mkdir(exist_ok=True)
    if not (checkpoint / "onnx" / "model.onnx").exists():
        (checkpoint / "onnx" / "model.onnx").hardlink_to(output / "float32.onnx")
    for precision, served in (("float32", "fp32"), ("int8", "int8")):
        prepared = pipeline.prepare(
            pipeline.Options(
                model=str(checkpoint),
                output=output / f"repository-{precision}",
                precision=served,  # type: ignore[arg-type]
                # Whether int8 is good enough for this model is not asked here: the benchmark states the difference.
                agreement=0,
                largest=1,
                mean=1,
            ),
            lambda line: print(line, file=sys.stderr),  # noqa: T201
        )
        if prepared.precision != served:
            raise SystemExit(f"{name} came out as {prepared.precision}, not {served}")
    facts = {"name": name, "labels": list(model.labels), "model_max_length": model.model_max_length}
    (output / "model.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _padded(source, model, path: Path) -> None:  # type: ignore[no-untyped-def]
    """Write the padded float32 graph as one file."""
    if source.onnx is not None:
        exported = source.folder / source.onnx
    else:
        exported = path.with_name("exported.onnx")
        isolated(
            answers_of_torch,
            source.folder,
            source.weights,
            model.rows[:2],
            largest_id=model.largest_id,
            labels=len(model.labels),
            max_length=model.model_max_length,
            export_to=exported,
        )
    graph = onnx.load(exported)
    del graph.graph.value_info[:]  # shapes of the exporter's example
    onnx.save(graph, path)
    for leftover in path.parent.glob("exported.onnx*"):
        leftover.unlink()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
