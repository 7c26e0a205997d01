"""Prepares a model: every step from its name to a checked repository, in order."""

import datetime
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rejection_server.prepare import gate, repository, served
from rejection_server.prepare.build import Built, Plan, Precision, build
from rejection_server.prepare.configuration import Device, Shape
from rejection_server.prepare.describe import Description, describe
from rejection_server.prepare.errors import GateError, PrepareError
from rejection_server.prepare.isolated import isolated
from rejection_server.prepare.reference import answers_of_onnx, answers_of_torch, has_torch
from rejection_server.prepare.source import Source, digest, find_source

SAMPLE = Path(__file__).parent / "texts.jsonl"
FEWEST_TEXTS = 200
TOOLS = ("torch", "transformers", "tokenizers", "onnx", "onnxscript", "onnxruntime", "nvidia-pytriton")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is to be prepared, and how."""

    model: str
    """Id on the Hugging Face hub, or a folder in its format."""
    output: Path
    """Where the repository goes."""
    revision: str | None = None
    """Commit, branch or tag on the hub."""
    precision: Precision | Literal["auto"] = "auto"
    """auto: int8 for a CPU, fp16 for a GPU."""
    device: Device = "cpu"
    texts: Path | None = None
    """Texts to compare on, one a line or JSON lines with `text`; None takes the bundled sample."""
    max_length: int | None = None
    """Longest text in tokens; None takes the model's, at most 2048."""
    version: int | None = None
    """Add the model as this version to the repository that is there."""
    allow_pickle: bool = False
    agreement: float | None = None
    """In place of the precision's own threshold; so are the next two."""
    largest: float | None = None
    mean: float | None = None


@dataclass(frozen=True)
class Prepared:
    """What was written."""

    output: Path
    version: int
    precision: Precision
    figures: list[gate.Figures]
    facts: dict[str, Any]


def prepare(options: Options, report: Callable[[str], None] = lambda _: None) -> Prepared:
    """Prepare a model; `report` is told what is going on, one line a step.

    Raises PrepareError and its kin; then what was at `output` before is still there, unchanged.
    """
    adds = options.version is not None and (options.output / "classifier").is_dir()
    repository.check_output(options.output)
    texts = read_texts(options.texts or SAMPLE)
    source = find_source(options.model, options.revision, has_torch=has_torch(), allow_pickle=options.allow_pickle)
    report(f"{source.name}{'' if source.revision is None else ' at ' + source.revision}: {len(source.files)} files")
    with repository.workplace(options.output) as work:
        tokenizer_json = work / "tokenizer.json"
        model = isolated(describe, source.folder, texts, options.max_length, tokenizer_json)
        shape = Shape(model.labels, model.model_max_length, model.activation, options.device)
        version = 1 if options.version is None else options.version
        if adds:
            repository.check_version(options.output, shape, version, tokenizer_json)
        report(_described(model))
        padded, logits, reference = _reference(source, model, work)
        report(f"{reference} answered {len(texts)} texts")
        expected = gate.probabilities_of(logits, model.activation)

        form = "packed"
        for precision, packed in _attempts(options):
            if not packed and form != "packed":
                continue  # it would be the same graph again
            staged = work / f"repository-{precision}-{'packed' if packed else 'loop'}"
            plan = _plan(model, options.device, precision, packed=packed)
            built = _build(padded, staged, plan, shape, version, tokenizer_json)
            form = built.form
            report(
                f"built the {precision} graph ({form}); packed form {built.packed}; "
                f"onnxruntime's transformer optimiser {built.optimizer}"
            )
            figures, missed = _check(options, staged, version, precision, shape, texts, model, expected)
            report(f"the repository answered {len(texts)} texts over gRPC on the embedded Triton")
            if not missed:
                break
            if form == "packed":
                report(f"warning: packed {precision} is not good enough here, taking loop: {'; '.join(missed)}")
            elif precision == "int8":
                report(f"warning: int8 is not good enough for this model, taking fp32: {'; '.join(missed)}")
            else:
                break
        if missed:
            raise GateError(
                f"the {precision} model does not answer like the original, so nothing was written: {'; '.join(missed)}"
                f"\n\n{gate.table(figures)}"
            )
        facts = _facts(options, source, model, staged, version, precision, built, reference, figures)
        repository.tidy(staged)
        repository.write_facts(staged, version, facts)
        if adds:
            repository.publish_version(staged, options.output, version)
        else:
            repository.publish(staged, options.output)
    return Prepared(options.output, version, precision, figures, facts)


def read_texts(path: Path) -> list[str]:
    """Texts of a file: JSON lines with `text`, or plain lines. Raises PrepareError if they are too few."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        texts = [json.loads(line)["text"] for line in lines] if path.suffix == ".jsonl" else lines
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise PrepareError(
            f"the texts in {path} cannot be read ({exc}): give a file with one text a line, or JSON lines with a field "
            "text in a file named *.jsonl"
        ) from exc
    if len(texts) < FEWEST_TEXTS:
        raise PrepareError(f"{path} holds {len(texts)} texts; at least {FEWEST_TEXTS} are needed to tell models apart")
    return texts


def _described(model: Description) -> str:
    length = f"{model.model_max_length} tokens"
    if model.model_max_length < model.longest_possible:
        length += f" (the model itself takes {model.longest_possible}: see --max-length)"
    names = ", ".join(model.labels[:5]) + (", ..." if len(model.labels) > 5 else "")
    return f"{model.architecture}, {len(model.labels)} labels ({names}), {model.activation}, {length}"


def _reference(source: Source, model: Description, work: Path) -> tuple[Path, Any, str]:
    """The padded ONNX file, the original's logits, and who gave them."""
    padded = source.folder / source.onnx if source.onnx else work / "padded.onnx"
    if source.weights is None:
        logits = isolated(answers_of_onnx, padded, model.rows, labels=len(model.labels))
        return padded, logits, f"onnxruntime {importlib.metadata.version('onnxruntime')} (the original ONNX file)"
    logits = isolated(
        answers_of_torch,
        source.folder,
        source.weights,
        model.rows,
        largest_id=model.largest_id,
        labels=len(model.labels),
        max_length=model.model_max_length,
        export_to=None if source.onnx else padded,
    )
    return padded, logits, f"PyTorch {importlib.metadata.version('torch')} in float32"


def _precisions(options: Options) -> Sequence[Precision]:
    """The precisions that are tried, one after the other."""
    chosen = options.precision
    if chosen == "auto":
        chosen = "int8" if options.device == "cpu" else "fp16"
    return ("int8", "fp32") if chosen == "int8" else (chosen,)


def _attempts(options: Options) -> Sequence[tuple[Precision, bool]]:
    """What is tried, one after the other: a precision, and whether it may be packed.

    The packed form's int8 rounds differently from the loop's, so either may pass where the other does not.
    """
    return [(precision, packed) for precision in _precisions(options) for packed in (True, False)]


def _plan(model: Description, device: Device, precision: Precision, *, packed: bool) -> Plan:
    return Plan(
        precision=precision,
        device=device,
        activation=model.activation,
        pad_id=model.pad_id,
        labels=len(model.labels),
        largest_id=model.largest_id,
        heads=model.heads,
        hidden_size=model.hidden_size,
        max_length=model.model_max_length,
        packed=packed,
    )


def _build(padded: Path, staged: Path, plan: Plan, shape: Shape, version: int, tokenizer_json: Path) -> Built:
    graph = staged.with_name("served.onnx")
    built = build(padded, graph, plan)
    # The gate runs here and now, so on a CPU; the configuration for a GPU is put in afterwards.
    repository.assemble(
        staged, replace(shape, device="cpu"), version=version, graph=graph, tokenizer_json=tokenizer_json
    )
    return built


def _check(
    options: Options,
    staged: Path,
    version: int,
    precision: Precision,
    shape: Shape,
    texts: list[str],
    model: Description,
    expected: Any,
) -> tuple[list[gate.Figures], list[str]]:
    answers = served.ask(staged, texts)
    if answers.token_counts != model.token_counts:
        different = sum(a != b for a, b in zip(answers.token_counts, model.token_counts, strict=True))
        raise GateError(f"the served tokenizer counts {different} of {len(texts)} texts differently from the original")
    figures = gate.compare(expected, answers.probabilities, model.token_counts, model.activation)
    if shape.device != "cpu":
        repository.configure(staged, shape)
    return figures, gate.failures(figures, thresholds_of(options, precision))


def thresholds_of(options: Options, precision: Precision) -> gate.Thresholds:
    """The precision's thresholds, with what the options say in place."""
    given = {name: getattr(options, name) for name in ("agreement", "largest", "mean")}
    return replace(gate.THRESHOLDS[precision], **{name: value for name, value in given.items() if value is not None})


def _facts(
    options: Options,
    source: Source,
    model: Description,
    staged: Path,
    version: int,
    precision: Precision,
    built: Built,
    reference: str,
    figures: list[gate.Figures],
) -> dict[str, Any]:
    """What `model.json` says."""
    tools = {}
    for tool in TOOLS:
        try:
            tools[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "name": source.title,
        "source": source.name,
        "revision": source.revision,
        "architecture": model.architecture,
        "labels": list(model.labels),
        "activation": model.activation,
        "model_max_length": model.model_max_length,
        "precision": precision,
        "device": options.device,
        "form": built.form,
        "packed": built.packed,
        "optimizer": built.optimizer,
        "milliseconds_by_tokens": built.milliseconds,
        "inputs_sha256": {name: digest(source.folder / name) for name in source.files},
        "sha256": digest(repository.version_folder(staged, version) / "model.onnx"),
        "gate": {
            "reference": reference,
            "texts": options.texts.name if options.texts else "bundled sample",
            "thresholds": asdict(thresholds_of(options, precision)),
            "figures": [asdict(figure) for figure in figures],
        },
        "tools": tools,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
