"""Prepares a model: every step from its name to a checked repository, in order."""

import contextlib
import datetime
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rejection_server.prepare import gate, repository, served
from rejection_server.prepare.build import Built, Plan, Precision, build
from rejection_server.prepare.checksum import digest
from rejection_server.prepare.configuration import Device, Shape
from rejection_server.prepare.describe import Description, describe
from rejection_server.prepare.errors import GateError, PrepareError
from rejection_server.prepare.isolated import isolated
from rejection_server.prepare.recorded import Recorded
from rejection_server.prepare.reference import answers_of_onnx, answers_of_torch, has_torch
from rejection_server.prepare.source import TOKENIZER_JSON, Source, find_source
from rejection_server.prepare.whole import check_whole

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
    """auto: int8 for a CPU, fp16 for a GPU; where either is not near enough, fp32."""
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


@dataclass(frozen=True)
class _Case:
    """What is prepared, and what its answers are compared with."""

    options: Options
    source: Source
    model: Description
    shape: Shape
    version: int
    texts: list[str]
    padded: Path
    """The model as ONNX: padded ids and mask in, logits out."""
    reference: str
    """Who gave the answers that count."""
    logits: gate.Floats
    """These, [texts, labels]."""
    expected: gate.Floats
    """Their probabilities."""


@dataclass(frozen=True)
class _Candidate:
    """A repository as it was built, and how it answered."""

    folder: Path
    precision: Precision
    built: Built
    figures: list[gate.Figures]
    missed: list[str]
    """What is beyond the thresholds."""


def prepare(options: Options, report: Callable[[str], None] = lambda _: None) -> Prepared:
    """Prepare a model; `report` is told what is going on, one line a step.

    Raises PrepareError and its kin; then what was at `output` before is still there, unchanged.
    """
    repository.check_output(options.output)
    texts = read_texts(options.texts or SAMPLE)
    source = find_source(options.model, options.revision, has_torch=has_torch(), allow_pickle=options.allow_pickle)
    check_whole(source)
    report(f"{source.name}{'' if source.revision is None else ' at ' + source.revision}: {len(source.files)} files")
    with repository.workplace(options.output) as work:
        case = _case(options, source, texts, work, report)
        chosen = _chosen(case, work, report)
        if chosen.missed:
            raise GateError(
                f"the {chosen.precision} model does not answer like the original, so nothing was written: "
                f"{'; '.join(chosen.missed)}\n\n{gate.table(chosen.figures)}"
            )
        facts = _facts(case, chosen)
        repository.tidy(chosen.folder)
        repository.write_facts(chosen.folder, case.version, facts)
        if _adds(options):
            repository.publish_version(chosen.folder, options.output, case.version)
        else:
            repository.publish(chosen.folder, options.output)
    return Prepared(options.output, case.version, chosen.precision, chosen.figures, facts)


def _adds(options: Options) -> bool:
    """Whether a version is added to a repository that is there already."""
    return options.version is not None and (options.output / "classifier").is_dir()


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


def _case(options: Options, source: Source, texts: list[str], work: Path, report: Callable[[str], None]) -> _Case:
    """Describe the model and ask the original; its tokenizer, and its ONNX file if it had none, go to `work`."""
    model = isolated(describe, source.folder, texts, options.max_length, work / TOKENIZER_JSON)
    shape = Shape(model.labels, model.model_max_length, model.activation, options.device)
    version = 1 if options.version is None else options.version
    if _adds(options):
        repository.check_version(options.output, shape, version, work / TOKENIZER_JSON)
    report(_described(model))
    padded = source.folder / source.onnx if source.onnx else work / "padded.onnx"
    if source.weights is None:
        logits = isolated(answers_of_onnx, padded, model)
        reference = f"onnxruntime {importlib.metadata.version('onnxruntime')} (the original ONNX file)"
    else:
        export_to = None if source.onnx else padded
        logits = isolated(answers_of_torch, source.folder, source.weights, model, export_to=export_to)
        reference = f"PyTorch {importlib.metadata.version('torch')} in float32"
    report(f"{reference} answered {len(texts)} texts")
    expected = gate.probabilities_of(logits, model.activation)
    return _Case(options, source, model, shape, version, texts, padded, reference, logits, expected)


def _precisions(options: Options) -> Sequence[Precision]:
    """The precisions that are tried, one after the other."""
    chosen = options.precision
    if chosen == "auto":
        chosen = "int8" if options.device == "cpu" else "fp16"
    gives_way = chosen == "int8" or (chosen == "fp16" and options.device == "gpu")
    return (chosen, "fp32") if gives_way else (chosen,)


def _attempts(options: Options) -> Sequence[tuple[Precision, bool]]:
    """What is tried, one after the other: a precision, and whether it may be packed (for a GPU varlen).

    The packed form's int8 rounds differently from the loop's, so either may pass where the other does not.
    """
    return [(precision, packed) for precision in _precisions(options) for packed in (True, False)]


def _chosen(case: _Case, work: Path, report: Callable[[str], None]) -> _Candidate:
    """The first candidate that answers like the original, or else the last one."""
    better, other = ("varlen", "padded") if case.options.device == "gpu" else ("packed", "loop")
    precisions = _precisions(case.options)
    form = better
    for precision, packed in _attempts(case.options):
        if not packed and form != better:
            continue  # it would be the same graph again
        candidate = _candidate(case, Plan(case.model, precision, case.options.device, packed), work, report)
        form, missed = candidate.built.form, "; ".join(candidate.missed)
        if not missed:
            break
        if form == better:
            report(f"warning: {form} {precision} is not good enough here, taking {other}: {missed}")
        elif precision != precisions[-1]:
            report(f"warning: {precision} is not good enough for this model, taking fp32: {missed}")
        else:
            break
    return candidate


def _candidate(case: _Case, plan: Plan, work: Path, report: Callable[[str], None]) -> _Candidate:
    """Build a repository in `work` and ask it; raises GateError where it counts tokens otherwise than the original."""
    staged = work / f"repository-{plan.precision}-{'packed' if plan.packed else 'plain'}"
    graph = work / "served.onnx"
    built = build(case.padded, graph, plan)
    report(
        f"built the {plan.precision} graph ({built.form}); "
        f"{'varlen' if plan.device == 'gpu' else 'packed'} form {built.packed}; "
        f"onnxruntime's transformer optimiser {built.optimizer}"
    )
    # The gate runs here and now, so on a CPU; what is for a GPU is put in afterwards.
    on_cpu = replace(case.shape, device="cpu")
    tokenizer_json = work / TOKENIZER_JSON
    repository.assemble(staged, on_cpu, version=case.version, graph=built.twin or graph, tokenizer_json=tokenizer_json)
    answers = served.ask(staged, case.texts)
    counts = case.model.token_counts
    if answers.token_counts != counts:
        different = sum(a != b for a, b in zip(answers.token_counts, counts, strict=True))
        raise GateError(f"the served tokenizer counts {different} of {len(counts)} texts differently from the original")
    repository.configure(staged, case.shape)
    folder = repository.version_folder(staged, case.version)
    if built.twin:
        graph.replace(folder / "model.onnx")
    if case.shape.device == "gpu":
        Recorded(case.model.rows, case.logits).write(folder)
    report(f"the repository answered {len(counts)} texts over gRPC on the embedded Triton")
    figures = gate.compare(case.expected, answers.probabilities, counts, case.model.activation)
    missed = gate.failures(figures, thresholds_of(case.options, plan.precision))
    return _Candidate(staged, plan.precision, built, figures, missed)


def thresholds_of(options: Options, precision: Precision) -> gate.Thresholds:
    """The precision's thresholds, with what the options say in place."""
    given = {name: getattr(options, name) for name in ("agreement", "largest", "mean")}
    return replace(gate.THRESHOLDS[precision], **{name: value for name, value in given.items() if value is not None})


def _facts(case: _Case, chosen: _Candidate) -> dict[str, Any]:
    """What `model.json` says."""
    tools = {}
    for tool in TOOLS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            tools[tool] = importlib.metadata.version(tool)
    source, built = case.source, chosen.built
    return {
        "name": source.title,
        "source": source.name,
        "revision": source.revision,
        "architecture": case.model.architecture,
        **asdict(case.shape),
        "precision": chosen.precision,
        "form": built.form,
        "packed": built.packed,
        "optimizer": built.optimizer,
        "milliseconds_by_tokens": built.milliseconds,
        "inputs_sha256": source.checksums(),
        "sha256": digest(repository.version_folder(chosen.folder, case.version) / "model.onnx"),
        "gate": {
            "reference": case.reference,
            "texts": case.options.texts.name if case.options.texts else "bundled sample",
            "thresholds": asdict(thresholds_of(case.options, chosen.precision)),
            "figures": [asdict(figure) for figure in chosen.figures],
        },
        "tools": tools,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
