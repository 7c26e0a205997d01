"""Makes the bundled model again: fine-tune, calm, calibrate, export, quantise, judge, and write it for Triton."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rejection_server import MODEL_REPOSITORY
from training.publish import BASE_PACKAGE, MAX_LENGTH, description, facts_of, model_of, publish, tokenizer_of

if TYPE_CHECKING:
    from training.data import Row, Split
    from training.finetune import Recipe
    from training.metrics import Floats
    from training.served import Served

TRAIN, TEST = "refusals.train.jsonl", "refusals.test.jsonl"
WORK = Path(__file__).resolve().parent.parent / "build" / "bundled"
CHECKPOINT = "checkpoint"
STUDENTS = 2
"""Runs that start alike and see the rows in another order; the mean of their weights is served."""

Report = Callable[[str], None]
"""Told what is going on, a line a step."""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/train",
        description=__doc__,
        epilog="Two teachers learn from the labelled responses and judge texts without labels; then the model learns "
        "from both, in two runs whose weights are averaged; last, its head learns everyday sentences. Takes under two "
        "hours on 2 cores; --reuse goes on where an earlier run stopped, --calm does the last step alone, in minutes.",
        allow_abbrev=False,
    )
    parser.add_argument("data", type=Path, help=f"folder with {TRAIN} and {TEST}")
    parser.add_argument("--repository", type=Path, default=MODEL_REPOSITORY, help="where the model is written")
    parser.add_argument("--work", type=Path, default=WORK, help="teacher, checkpoints, ONNX files")
    parser.add_argument("--epochs", type=int, default=4, help="of each run of the model to be served")
    parser.add_argument("--synthetic", type=int, default=3500, help="project-written rows added to the training data")
    parser.add_argument("--transfer", type=int, default=12000, help="unlabelled texts that the teachers judge")
    parser.add_argument("--publish-anyway", action="store_true", help="write the model even if it misses a bar")
    parser.add_argument(
        "--reuse", action="store_true", help="take what --work holds: teacher, opinions, runs, checkpoint"
    )
    parser.add_argument(
        "--calm",
        action="store_true",
        help="only the last step: the published model of --repository learns everyday sentences, at no loss of F1",
    )
    return parser.parse_args()


class NotPossibleError(Exception):
    """Something that training needs is not there; `str()` is one sentence for a person."""


def main() -> int:
    """Run all steps; the exit code is 1 when a quality bar is missed, and then the repository stays as it was.

    Unless --publish-anyway is given.
    """
    args = arguments()
    started = time.monotonic()

    def report(message: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {message}", flush=True)

    try:
        return run(args, report)
    except ImportError as error:
        print(f"scripts/train: the package {error.name} is missing: run scripts/install train", file=sys.stderr)
    except NotPossibleError as error:
        print(f"scripts/train: {error}", file=sys.stderr)
    return 2


def run(args: argparse.Namespace, report: Report) -> int:
    """Train, calibrate, export, judge and publish; the exit code of `main`."""
    for name in (TRAIN, TEST):
        if not (args.data / name).is_file():
            raise NotPossibleError(f"{args.data} holds no {name}: name the folder with the labelled responses")
    from training import data, export, finetune, judge
    from training.served import Served

    recipe = finetune.Recipe(epochs=args.epochs)
    test = data.read_rows(args.data / TEST)
    split = data.prepared(data.read_rows(args.data / TRAIN), test, args.synthetic, recipe.seed)
    report(f"{len(split.train)} training rows, {len(split.validation)} validation rows, {len(test)} test rows")
    args.work.mkdir(parents=True, exist_ok=True)
    served = Served(args.work / "model.onnx", args.work / "tokenizer.json")
    if args.calm:
        model, tokenizer, start = load_published(args.repository)
        shutil.copyfile(model_of(args.repository), served.model)
    else:
        if not (args.reuse and (args.work / CHECKPOINT).is_dir()):
            train(args, split, test, recipe, report)
        (model, tokenizer), start = load(args.work / CHECKPOINT), {}
        report("exporting and quantising")
        padded = args.work / "padded.onnx"
        export.export_padded(model, padded, MAX_LENGTH)
        export.to_served(padded, served.model, model.config.num_attention_heads)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(served.tokenizer), pretty=False)
    temperature = calibrated(model, served, split, recipe, report)

    report("judging float32 and int8 on the test file")
    texts = [row.text for row in test]
    float32 = judge.judge(test, finetune.logits_of(model, tokenizer, texts, MAX_LENGTH))

    def given(rows: list[Row]) -> Floats:
        return served.logits([row.text for row in rows], MAX_LENGTH)

    int8, held_back = judge.judge(test, given(test)), judge.everyday_rows("held-out")
    everyday = judge.everyday_errors(held_back, given(held_back))
    summary = {"temperature": temperature, "float32": float32, "int8": int8, "everyday": everyday}
    (args.work / "metrics.json").write_text(json.dumps(summary, indent=1))
    print(f"\nint8, as served:\n{judge.table(int8)}\n\nfloat32:\n{judge.table(float32)}\n")
    print(f"expected calibration error, int8: {int8['calibration_error']:.4f}")
    print(f"everyday sentences held back, int8: {everyday}")
    missed = judge.failures(float32, int8, everyday, start.get("f1", judge.BARS))
    for sentence in missed:
        print(f"scripts/train: {sentence}", file=sys.stderr)
    if not missed or args.publish_anyway:
        facts = description(served.model, finetune.LABELS, temperature, int8, start)
        publish(args.work, args.repository, facts)
        report(f"written to {args.repository}")
    return 1 if missed else 0


def load_published(repository: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The model of a repository, its tokenizer, and what its ``model.json`` says."""
    from google.protobuf.message import DecodeError

    from training import published

    try:
        model, tokenizer = published.load_published(model_of(repository), tokenizer_of(repository))
        return model, tokenizer, facts_of(repository)
    except (OSError, ValueError, KeyError, DecodeError) as error:
        raise NotPossibleError(f"{repository} holds no model that scripts/train has written ({error})") from error


def calibrated(model: Any, served: Served, split: Split, recipe: Recipe, report: Report) -> float:
    """Do the last step and fit the temperature, which becomes part of the last layer; returns it.

    ``served``, the int8 form of ``model``, gets the new head as well.
    """
    import torch

    from training import calm, data, finetune, judge, metrics

    real = [row for row in split.validation if row.source != data.SYNTHETIC]
    everyday = judge.everyday_rows("choosing")
    read = served.first_tokens([row.text for row in (*real, *everyday)], MAX_LENGTH)
    features = torch.from_numpy(read).float()

    def logits(when: str) -> Floats:
        given: Floats = calm.logits(model, features).double().numpy()
        errors = judge.everyday_errors(everyday, given[len(real) :])
        report(f"{when} calming: validation F1 {finetune.f1_by_source(real, given[: len(real)])}, everyday {errors}")
        return given[: len(real)]

    logits("before")
    calm.calm(model, served, split, calm.Recipe(), report)
    weights = [recipe.noisy_weight if row.source == data.NOISY else 1.0 for row in real]
    temperature = metrics.best_temperature([row.label for row in real], logits("after"), weights)
    finetune.scale_logits(model, 1 / temperature)
    served.replace_head(model)
    report(f"temperature {temperature:.3f}, now part of the last layer")
    return temperature


def train(args: argparse.Namespace, split: Split, test: list[Row], recipe: Recipe, report: Report) -> None:
    """Write the checkpoint to be served: the mean of several runs on the rows and on the teachers' opinions."""
    from training import finetune

    base = importlib.util.find_spec(BASE_PACKAGE.replace("-", "_"))
    if base is None or not base.submodule_search_locations:
        raise NotPossibleError("the base model is missing: run scripts/install train")
    try:
        judged = opinions_of_teachers(args, split, test, recipe.seed, report)
    except (FileNotFoundError, ValueError) as error:
        raise NotPossibleError(str(error)) from error
    rows = dataclasses.replace(split, train=split.train + judged)
    students = [args.work / f"student-{number}" for number in range(1, STUDENTS + 1)]
    for number, student in enumerate(students):
        if args.reuse and student.is_dir():
            continue
        report(f"training the model to be served, run {number + 1} of {STUDENTS}")
        finetune.seed_all(recipe.seed)
        model, tokenizer = finetune.load_base(Path(base.submodule_search_locations[0]) / "model")
        order = dataclasses.replace(recipe, seed=recipe.seed + number)
        save(model, tokenizer, finetune.finetune(model, tokenizer, rows, order, report), student)
    model, tokenizer = finetune.averaged(students)
    save(model, tokenizer, {"mean of": [folder.name for folder in students]}, args.work / CHECKPOINT)


def opinions_of_teachers(
    args: argparse.Namespace, split: Split, test: list[Row], seed: int, report: Report
) -> list[Row]:
    """Rows with the teachers' opinions; the larger encoder is fine-tuned first."""
    from training import data, finetune, ngrams, opinions, teacher

    kept = args.work / "opinions.jsonl"
    if args.reuse and kept.is_file():
        return [data.Row(**json.loads(line)) for line in kept.read_text(encoding="utf-8").splitlines()]
    checkpoint = args.work / "teacher"
    if not (args.reuse and checkpoint.is_dir()):
        report("unpacking the teacher")
        folder = teacher.unpacked(args.work)
        report("training the teacher")
        mine = data.prepared(data.read_rows(args.data / TRAIN), test, teacher.SYNTHETIC_ROWS, seed)
        finetune.seed_all(seed)
        model, tokenizer = finetune.load_base(folder)
        teacher.freeze(model)
        held_out = [row for row in mine.validation if row.source != data.SYNTHETIC]
        mine = dataclasses.replace(mine, validation=held_out)
        save(model, tokenizer, finetune.finetune(model, tokenizer, mine, teacher.RECIPE, report), checkpoint)
    model, tokenizer = load(checkpoint)
    report("asking the teachers")
    teachers = opinions.Teachers(
        encoder=lambda texts: teacher.log_odds(model, tokenizer, texts, report),
        learn=lambda rows, weights: ngrams.NGrams(rows, weights).log_odds,
    )
    judged = opinions.opinions(split, teachers, args.transfer, seed, report)
    half = kept.with_suffix(".part")
    half.write_text("".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in judged), encoding="utf-8")
    half.replace(kept)
    return judged


def load(checkpoint: Path) -> tuple[Any, Any]:
    """A fine-tuned model and its tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    return AutoModelForSequenceClassification.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)


def save(model: Any, tokenizer: Any, history: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint, whole or not at all."""
    half = folder.with_suffix(".part")
    shutil.rmtree(half, ignore_errors=True)
    model.save_pretrained(half)
    tokenizer.save_pretrained(half)
    (half / "history.json").write_text(json.dumps(history, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
