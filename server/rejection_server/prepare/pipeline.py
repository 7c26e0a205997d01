"""Prepares a model: every step from its name to a checked repository, in order."""

import contextlib
import datetime
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rejection_server.graph.original import Found
from rejection_server.prepare import gate, repository, served
from rejection_server.prepare.adapter import merged
from rejection_server.prepare.answers import Answers
from rejection_server.prepare.build import Built, Plan, Precision, build
from rejection_server.prepare.checksum import digest
from rejection_server.prepare.configuration import Device, Shape, rendered
from rejection_server.prepare.describe import Description, describe
from rejection_server.prepare.errors import CorruptedError, GateError, PrepareError
from rejection_server.prepare.export import check_weights, export
from rejection_server.prepare.isolated import isolated
from rejection_server.prepare.onnx_file import check_usable, read_onnx
from rejection_server.prepare.proof import answers_in_float32, shortest_row
from rejection_server.prepare.recorded import Recorded
from rejection_server.prepare.reference import Answer, Reference, answers_of_onnx, answers_of_pipeline, has_torch
from rejection_server.prepare.source import TOKENIZER_JSON, Source, find_source
from rejection_server.prepare.tokenizer import ids_as_served, write_served_tokenizer
from rejection_server.prepare.whole import check_whole, stored_as

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
    positive_label: str | None = None
    """The label that callers look for; None takes REJECTION, if the model has it."""
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
    """All that are asked, the edge cases last."""
    compared: list[int]
    """Those of them that the original has an answer to."""
    edge_cases: int
    """How many of these are edge cases."""
    padded: Path
    """The model as ONNX: padded ids and mask in, logits out."""
    found: Found | None
    """What its own ONNX file held; None where it was exported."""
    reference: str
    """Who gave the answers that count."""
    expected: Answers
    """These."""

    def compared_texts(self) -> list[str]:
        """The texts that the original has an answer to."""
        return [self.texts[index] for index in self.compared]

    @property
    def quantized(self) -> bool:
        """Whether its own ONNX file is in int8 already."""
        return self.found is not None and self.found.weights == "int8"


@dataclass(frozen=True)
class _Candidate:
    """A repository as it was built, and how it answered."""

    folder: Path
    shape: Shape
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
        if source.base is not None:
            source = isolated(merged, source, work / "merged")
            report("the adapter is merged into its base")
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
        repository.write_files(chosen.folder, rendered({**facts, "version": case.version}))
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
    scores = "raw scores" if model.activation == "none" else model.activation
    return f"{model.architecture}, {len(model.labels)} labels ({names}), {scores}, {length}"


def _case(options: Options, source: Source, texts: list[str], work: Path, report: Callable[[str], None]) -> _Case:
    """Describe the model and ask the original; its tokenizer, and its ONNX file if it had none, go to `work`."""
    tried = isolated(describe, source.folder, options.max_length, options.positive_label)
    source, graph, found = _own_graph(options, source, tried, work, report)
    everything = [*texts, *(text for text in tried.edge_texts if text not in set(texts))]
    if source.weights is not None:
        isolated(check_weights, source.folder, source.weights, tried)
        answered = isolated(answers_of_pipeline, source.folder, everything, tried.model_max_length)
        torch, transformers = (importlib.metadata.version(name) for name in ("torch", "transformers"))
        reference = f"the pipeline of transformers {transformers} on PyTorch {torch} in float32"
    else:
        answered = isolated(answers_of_onnx, source.folder, graph, everything, tried.model_max_length)
        reference = f"onnxruntime {importlib.metadata.version('onnxruntime')} (the original ONNX file)"
    rows = isolated(write_served_tokenizer, source.folder, work / TOKENIZER_JSON, answered.longest)
    model = tried.of_length(answered.longest, rows)
    report(_described(model))
    report(f"{reference} answered {len(everything)} texts")
    for line in _notes(answered, everything, model.model_max_length):
        report(line)
    compared = [index for index, answer in enumerate(answered.answers) if isinstance(answer, Answer)]
    expected = Answers.expected([a for a in answered.answers if isinstance(a, Answer)], model.labels)
    if not np.isfinite(expected.logits).all():
        raise CorruptedError("the original answers texts with what is not a number: the model's weights are damaged")
    shape = Shape(model.labels, model.model_max_length, model.activation, options.device)
    version = 1 if options.version is None else options.version
    if _adds(options):
        repository.check_version(options.output, shape, version, work / TOKENIZER_JSON)
    edge_cases = sum(index >= len(texts) for index in compared)
    case = _Case(
        options, source, model, shape, version, everything, compared, edge_cases, graph, found, reference, expected
    )
    _check_tokens(case, work)
    if source.onnx is None:
        assert source.weights is not None
        isolated(export, source.folder, source.weights, model, graph)
    if _precisions(options)[0] != "fp32":
        _prove(case, work)
        report("the served form answered them in float32 like the original")
    return case


def _own_graph(
    options: Options, source: Source, model: Description, work: Path, report: Callable[[str], None]
) -> tuple[Source, Path, Found | None]:
    """The model's own ONNX file in the form that is built on, and what was found in it; None where one is exported.

    A file of less than float32 is left aside where there are weights. Raises UnsupportedError or CorruptedError.
    """
    padded = work / "padded.onnx"
    if source.onnx is None:
        return source, padded, None
    found = isolated(read_onnx, source.folder / source.onnx, padded)
    if told := found.told():
        report(f"{source.onnx} holds {told}")
    if found.weights != "fp32" and source.weights is not None:
        report(f"{source.onnx} is left aside for {source.weights}")
        return source.without_onnx(), work / "exported.onnx", None
    check_usable(found, source.onnx, model.activation, options.precision, options.device)
    return source, padded if found.changed else source.folder / source.onnx, found


def _notes(answered: Reference, texts: Sequence[str], longest: int) -> list[str]:
    """What a reader of the comparison should know of the original."""
    notes = []
    if not answered.cuts_by_itself:
        notes.append(
            f"note: the tokenizer's model_max_length is not {longest}, so the original was told to cut texts there "
            f"(max_length={longest})"
        )
    unanswered = [(texts[index], why) for index, why in enumerate(answered.answers) if isinstance(why, str)]
    if unanswered:
        text, why = unanswered[0]
        notes.append(
            f"note: {len(unanswered)} texts to which the original itself has no answer are not compared, such as "
            f"{text[:40]!r}: {why}"
        )
    return notes


def _check_tokens(case: _Case, work: Path) -> None:
    """Raise GateError unless the server's tokenizer makes the original's tokens of every text."""
    texts, expected = case.compared_texts(), case.expected
    ids = ids_as_served(work / TOKENIZER_JSON, texts, case.model.model_max_length)
    missed = gate.mistakes(expected, replace(expected, ids=tuple(ids)), texts)
    if missed:
        raise GateError(f"the served tokenizer does not do what the original's does: {'; '.join(missed)}")


def _prove(case: _Case, work: Path) -> None:
    """Raise GateError unless the served form answers in float32 like the original, to the last digits."""
    graph, texts = work / "float32.onnx", case.compared_texts()
    found = isolated(answers_in_float32, case.padded, graph, work / TOKENIZER_JSON, case.model, texts)
    graph.unlink()
    figures, missed = _judged(case, found, gate.THRESHOLDS["fp32"])
    if missed:
        raise GateError(
            f"the model's graph in float32 does not answer like the original, so nothing was written: "
            f"{'; '.join(missed)}\n\n{gate.table(figures)}"
        )


def _judged(case: _Case, found: Answers, thresholds: gate.Thresholds) -> tuple[list[gate.Figures], list[str]]:
    """Figures of answers to the compared texts, and what is beyond float32's or other thresholds."""
    figures = gate.compare_all(case.expected, found, case.edge_cases, case.model.activation)
    missed = gate.failures(figures, thresholds)
    if thresholds.largest <= gate.THRESHOLDS["fp32"].largest:
        missed += gate.logit_failures(case.expected, found)
    return figures, missed


def _precisions(options: Options) -> Sequence[Precision]:
    """The precisions that are tried, one after the other."""
    chosen = options.precision
    if chosen == "auto":
        chosen = "int8" if options.device == "cpu" else "fp16"
    gives_way = chosen == "int8" or (chosen == "fp16" and options.device == "gpu")
    return (chosen, "fp32") if gives_way else (chosen,)


def _attempts(case: _Case) -> Sequence[tuple[Precision, bool]]:
    """What is tried, one after the other: a precision, and whether it may be packed (for a GPU varlen).

    The packed form's int8 rounds differently from the loop's, so either may pass where the other does not.
    """
    if case.quantized:
        return [("int8", False)]
    return [(precision, packed) for precision in _precisions(case.options) for packed in (True, False)]


def _chosen(case: _Case, work: Path, report: Callable[[str], None]) -> _Candidate:
    """The first candidate that answers like the original, or else the last one."""
    better, other = ("varlen", "padded") if case.options.device == "gpu" else ("packed", "loop")
    attempts = _attempts(case)
    form = better
    for precision, packed in attempts:
        if not packed and form != better:
            continue  # it would be the same graph again
        plan = Plan(case.model, precision, case.options.device, packed, case.quantized)
        candidate = _candidate(case, plan, work, report)
        form, missed = candidate.built.form, "; ".join(candidate.missed)
        if not missed:
            break
        if form == better:
            report(f"warning: {form} {precision} is not good enough here, taking {other}: {missed}")
        elif precision != attempts[-1][0]:
            report(f"warning: {precision} is not good enough for this model, taking fp32: {missed}")
        else:
            break
    return candidate


def _candidate(case: _Case, plan: Plan, work: Path, report: Callable[[str], None]) -> _Candidate:
    """Build a repository in `work` and ask it; raises GateError for what may differ in no precision."""
    staged = work / f"repository-{plan.precision}-{'packed' if plan.packed else 'plain'}"
    graph = work / "served.onnx"
    built = build(case.padded, graph, plan)
    report(
        f"built the {plan.precision} graph ({built.form}); "
        f"{'varlen' if plan.device == 'gpu' else 'packed'} form {built.packed}; "
        f"onnxruntime's transformer optimiser {built.optimizer}"
    )
    tokenizer_json = work / TOKENIZER_JSON
    runs_here = built.twin or graph
    shape = replace(case.shape, model_min_length=isolated(shortest_row, runs_here, tokenizer_json, case.model))
    if _adds(case.options):
        repository.check_version(case.options.output, shape, case.version, tokenizer_json)
    # The gate runs here and now, so on a CPU; what is for a GPU is put in afterwards.
    parts = repository.Parts(runs_here, tokenizer_json, case.model.sample_rows)
    repository.assemble(staged, replace(shape, device="cpu"), parts, version=case.version)
    answers = served.ask(staged, case.texts).of(case.compared)
    mistakes = gate.mistakes(case.expected, answers, case.compared_texts())
    if mistakes:
        raise GateError(
            f"the repository does not answer like the original, so nothing was written: {'; '.join(mistakes)}"
        )
    repository.configure(staged, shape)
    folder = repository.version_folder(staged, case.version)
    if built.twin:
        graph.replace(folder / "model.onnx")
    if case.shape.device == "gpu":
        Recorded(case.expected.ids, case.expected.logits).write(folder)
    report(f"the repository answered {len(case.texts)} texts over gRPC on the embedded Triton")
    figures, missed = _judged(case, answers, thresholds_of(case.options, plan.precision))
    return _Candidate(staged, shape, plan.precision, built, figures, missed)


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
        **asdict(chosen.shape),
        "original_precision": case.found.weights if case.found else stored_as(source),
        "original_onnx": case.found.told() if case.found else "",
        "problem_type": case.model.problem_type,
        "positive_label": case.model.positive_label,
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
