"""Prepares a model: every step from its name to a checked repository, in order."""

import contextlib
import datetime
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rejection_server.facts import version_folder
from rejection_server.prepare import gate, repository, served
from rejection_server.prepare.adapter import merged
from rejection_server.prepare.build import Built, Plan, Precision, build
from rejection_server.prepare.case import Case, judged, make_case
from rejection_server.prepare.checksum import digest
from rejection_server.prepare.configuration import Shape, configurations, rendered
from rejection_server.prepare.errors import GateError, OutputError, PrepareError
from rejection_server.prepare.isolated import isolated
from rejection_server.prepare.options import SAMPLE, Options, read_texts
from rejection_server.prepare.proof import shortest_row
from rejection_server.prepare.recorded import Recorded
from rejection_server.prepare.reference import has_torch
from rejection_server.prepare.source import TOKENIZER_JSON, find_source
from rejection_server.prepare.whole import check_whole, stored_as

TOOLS = ("torch", "transformers", "tokenizers", "onnx", "onnxscript", "onnxruntime", "nvidia-pytriton")


@dataclass(frozen=True)
class Prepared:
    """What was written."""

    output: Path
    version: int
    precision: Precision
    figures: list[gate.Figures]
    facts: dict[str, Any]


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
    names = options.names
    if options.adds:
        repository.check_addition(options.output, names, options.device)
    else:
        repository.check_output(options.output, names, replaces=not options.adds_version)
    if options.version is not None:
        if not options.adds_version:
            raise OutputError(
                f"there is no {names.public} in {options.output} that version {options.version} could be added to: "
                "leave out --version for the first one"
            )
        repository.check_number(options.output, names, options.version)
    if options.device == "gpu" and options.precision == "int8":
        raise PrepareError("a repository for a GPU is in fp16 or fp32: leave out --precision int8")
    texts = read_texts(options.texts or SAMPLE)
    source = find_source(options.model, options.revision, has_torch=has_torch(), allow_pickle=options.allow_pickle)
    check_whole(source)
    report(f"{source.name}{'' if source.revision is None else ' at ' + source.revision}: {len(source.files)} files")
    with repository.workplace(options.output) as work:
        if source.base is not None:
            source = isolated(merged, source, work / "merged")
            report("the adapter is merged into its base")
        case = make_case(options, source, texts, work, report)
        chosen = _chosen(case, work, report)
        if chosen.missed:
            raise GateError(
                f"the {chosen.precision} model does not answer like the original, so nothing was written: "
                f"{'; '.join(chosen.missed)}\n\n{gate.table(chosen.figures)}"
            )
        facts = _facts(case, chosen)
        repository.tidy(chosen.folder)
        repository.write_facts(version_folder(chosen.folder, names, case.version), facts)
        repository.write_files(chosen.folder, rendered({**facts, "version": case.version}, names))
        if options.adds:
            repository.publish_beside(chosen.folder, options.output, names)
        elif options.adds_version:
            repository.publish_version(chosen.folder, options.output, names, case.version)
        else:
            repository.publish(chosen.folder, options.output)
    return Prepared(options.output, case.version, chosen.precision, chosen.figures, facts)


def _attempts(case: Case) -> Sequence[tuple[Precision, bool]]:
    """What is tried, one after the other: a precision, and whether it may be packed (for a GPU varlen).

    The packed form's int8 rounds differently from the loop's, so either may pass where the other does not.
    """
    if case.quantized:
        return [("int8", False)]
    if case.options.engine == "tensorrt":
        return [(precision, True) for precision in case.options.precisions]
    return [(precision, packed) for precision in case.options.precisions for packed in (True, False)]


def _chosen(case: Case, work: Path, report: Callable[[str], None]) -> _Candidate:
    """The first candidate that answers like the original, or else the last one."""
    better, other = ("varlen", "padded") if case.options.device == "gpu" else ("packed", "loop")
    attempts = _attempts(case)
    form = better
    for precision, packed in attempts:
        if not packed and form != better:
            continue  # it would be the same graph again
        plan = Plan(case.model, precision, case.options.device, case.options.engine, packed, case.quantized)
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


def _candidate(case: Case, plan: Plan, work: Path, report: Callable[[str], None]) -> _Candidate:
    """Build a repository in `work` and ask it; raises GateError for what may differ in no precision."""
    names = case.options.names
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
    if case.options.adds_version:
        repository.check_version(case.options.output, names, shape, case.version, tokenizer_json)
    # The gate runs here and now, so on a CPU; what is for a GPU is put in afterwards.
    parts = repository.Parts(runs_here, tokenizer_json, case.model.sample_rows)
    repository.assemble(staged, names, replace(shape, device="cpu"), parts, version=case.version)
    answers = served.ask(staged, names, case.texts).of(case.compared)
    mistakes = case.mistakes(answers)
    if mistakes:
        raise GateError(
            f"the repository does not answer like the original, so nothing was written: {'; '.join(mistakes)}"
        )
    repository.write_files(staged, configurations(shape, names))
    folder = version_folder(staged, names, case.version)
    if built.twin:
        graph.replace(folder / "model.onnx")
    Recorded(case.expected.ids, case.expected.logits, case.edge_cases).write(folder)
    report(f"the repository answered {len(case.texts)} texts over gRPC on the embedded Triton")
    figures, missed = judged(case, answers, case.options.thresholds(plan.precision))
    return _Candidate(staged, shape, plan.precision, built, figures, missed)


def _facts(case: Case, chosen: _Candidate) -> dict[str, Any]:
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
        "sha256": digest(version_folder(chosen.folder, case.options.names, case.version) / "model.onnx"),
        "gate": {
            "reference": case.reference,
            "texts": case.options.texts.name if case.options.texts else "bundled sample",
            "thresholds": asdict(case.options.thresholds(chosen.precision)),
            "figures": [asdict(figure) for figure in chosen.figures],
        },
        "tools": tools,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
