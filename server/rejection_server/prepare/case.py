"""The model as it is, and what the original answers: all that a prepared repository is made of and compared with."""

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rejection_server.graph.original import Found
from rejection_server.prepare import gate, repository
from rejection_server.prepare.answers import Answers
from rejection_server.prepare.build import Plan
from rejection_server.prepare.configuration import Shape
from rejection_server.prepare.describe import Description, describe
from rejection_server.prepare.errors import CorruptedError, GateError, UnsupportedError
from rejection_server.prepare.export import check_weights, export
from rejection_server.prepare.isolated import begun, isolated
from rejection_server.prepare.onnx_file import check_raw, check_usable, few_rows, read_onnx
from rejection_server.prepare.options import Options
from rejection_server.prepare.proof import answers_in_float32, without_gpu
from rejection_server.prepare.reference import Answer, Reference, answers_of_onnx, answers_of_pipeline
from rejection_server.prepare.source import TOKENIZER_JSON, Source
from rejection_server.prepare.tokenizer import counted_exactly, tokens_as_served, write_served_tokenizer

SIDE_BY_SIDE = 128 * 10**6
"""Bytes of a model that is exported while the original answers: both processes hold all of its weights."""


@dataclass(frozen=True)
class Case:
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

    def mistakes(self, found: Answers) -> list[str]:
        """What may differ in no precision, and does in these answers to the compared texts."""
        counted = counted_exactly(self.model.model_max_length)
        return gate.mistakes(self.expected, found, self.compared_texts(), counted)

    @property
    def quantized(self) -> bool:
        """Whether its own ONNX file is in int8 already."""
        return self.found is not None and self.found.weights == "int8"


def make_case(options: Options, source: Source, texts: list[str], work: Path, report: Callable[[str], None]) -> Case:
    """Describe the model and ask the original; its tokenizer, and its ONNX file if it had none, go to `work`."""
    tried = isolated(describe, source.folder, options.max_length, options.positive_label)
    source, graph, found = _own_graph(options, source, tried, work, report)
    if source.weights is not None:
        isolated(check_weights, source.folder, source.weights, tried)
    with _exporting(source, tried, graph) as finish_export:
        everything = [*texts, *(text for text in tried.edge_texts if text not in set(texts))]
        if source.weights is not None:
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
            raise CorruptedError(
                "the original answers texts with what is not a number: the model's weights are damaged"
            )
        if source.weights is None:
            check_raw(expected.logits, str(source.onnx))
        shape = Shape(model.labels, model.model_max_length, model.activation, options.device, engine=options.engine)
        version = 1 if options.version is None else options.version
        if options.adds_version:
            repository.check_version(options.output, options.names, shape, version, work / TOKENIZER_JSON)
        edge_cases = sum(index >= len(texts) for index in compared)
        case = Case(
            options, source, model, shape, version, everything, compared, edge_cases, graph, found, reference, expected
        )
        _check_tokens(case, work)
        finish_export(model)
    if options.precisions[0] != "fp32":
        _prove(case, work)
        report("the served form answered them in float32 like the original")
    return case


@contextlib.contextmanager
def _exporting(source: Source, tried: Description, graph: Path) -> Iterator[Callable[[Description], None]]:
    """Gives what ends the export to `graph`, if there is one; where memory allows, it is begun at once.

    It is begun for texts of the length that the description allows. The model may take fewer, which the export of some
    models stumbles over; then it is made again for what the model takes.
    """
    if source.onnx is not None:
        yield lambda _: None
        return
    assert source.weights is not None
    given = (source.folder, source.weights)
    if sum((source.folder / name).stat().st_size for name in source.files) > SIDE_BY_SIDE:
        yield lambda model: isolated(export, *given, model, graph)
        return
    with begun(export, *given, tried, graph) as exported:

        def finish(model: Description) -> None:
            try:
                exported()
            except UnsupportedError:
                if model.model_max_length == tried.model_max_length:
                    raise
                isolated(export, *given, model, graph)

        yield finish


def _described(model: Description) -> str:
    length = f"{model.model_max_length} tokens"
    if model.model_max_length < model.longest_possible:
        length += f" (the model itself takes {model.longest_possible}: see --max-length)"
    names = ", ".join(model.labels[:5]) + (", ..." if len(model.labels) > 5 else "")
    scores = "raw scores" if model.activation == "none" else model.activation
    return f"{model.architecture}, {len(model.labels)} labels ({names}), {scores}, {length}"


def _own_graph(
    options: Options, source: Source, model: Description, work: Path, report: Callable[[str], None]
) -> tuple[Source, Path, Found | None]:
    """The model's own ONNX file in the form that is built on, and what was found in it; None where one is exported.

    A file of less than float32 is left aside where there are weights. Raises UnsupportedError or CorruptedError.
    """
    padded = work / "padded.onnx"
    if source.onnx is None:
        return source, padded, None
    rows = isolated(few_rows, source.folder)
    found = isolated(read_onnx, source.folder / source.onnx, padded, rows)
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


def _check_tokens(case: Case, work: Path) -> None:
    """Raise GateError unless the server's tokenizer makes the original's tokens of every text."""
    texts, expected = case.compared_texts(), case.expected
    ids, counts = tokens_as_served(work / TOKENIZER_JSON, texts, case.model.model_max_length)
    missed = case.mistakes(replace(expected, ids=ids, token_counts=counts))
    if missed:
        raise GateError(f"the served tokenizer does not do what the original's does: {'; '.join(missed)}")


def _prove(case: Case, work: Path) -> None:
    """Raise GateError unless the served form answers in float32 like the original, to the last digits."""
    graph, texts = work / "float32.onnx", case.compared_texts()
    plan = Plan(case.model, "fp32", case.options.device, case.options.engine, packed=False)
    found = isolated(answers_in_float32, case.padded, graph, work / TOKENIZER_JSON, plan, texts)
    graph.unlink()
    figures, missed = judged(case, found, gate.THRESHOLDS["fp32"])
    if missed:
        raise GateError(
            f"the model's graph in float32 does not answer like the original, so nothing was written: "
            f"{'; '.join(missed)}{without_gpu(plan)}\n\n{gate.table(figures)}"
        )


def judged(case: Case, found: Answers, thresholds: gate.Thresholds) -> tuple[list[gate.Figures], list[str]]:
    """Figures of answers to the compared texts, and what is beyond float32's or other thresholds."""
    expected = case.expected
    figures = gate.compare_all(
        expected.scores, found.scores, expected.token_counts, case.edge_cases, case.model.activation
    )
    missed = gate.failures(figures, thresholds)
    if thresholds.largest <= gate.THRESHOLDS["fp32"].largest:
        missed += gate.logit_failures(case.expected, found)
    return figures, missed
