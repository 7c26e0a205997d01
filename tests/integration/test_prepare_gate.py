"""The gate refuses what does not answer as transformers' pipeline does: each kind of mistake, made on purpose."""

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from rejection_server.prepare import case as steps
from rejection_server.prepare import gate, pipeline
from rejection_server.prepare.answers import Answers
from rejection_server.prepare.build import Plan
from rejection_server.prepare.describe import Description, describe
from rejection_server.prepare.errors import GateError
from rejection_server.prepare.export import check_weights, export
from rejection_server.prepare.options import SAMPLE, Options, read_texts
from rejection_server.prepare.proof import answers_in_float32
from rejection_server.prepare.reference import Answer, Reference, answers_of_pipeline
from rejection_server.prepare.tokenizer import write_served_tokenizer
from support import tiny_transformers

LABELS = ("calm", "loud", "odd")
USUAL = read_texts(SAMPLE)[:25]


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes, ensure_ascii=False), encoding="utf-8")


@dataclass(frozen=True)
class Case:
    """A model, what the original answers, and what is served of it."""

    folder: Path
    model: Description
    texts: list[str]
    edge_cases: int
    answered: Reference
    expected: Answers
    padded: Path
    tokenizer_json: Path

    def refusals(self, found: Answers) -> list[str]:
        """What the gate says of these answers in float32."""
        mistakes = gate.mistakes(self.expected, found, self.texts, 4096)
        figures = gate.compare_all(
            self.expected.scores, found.scores, self.expected.token_counts, self.edge_cases, self.model.activation
        )
        return [
            *mistakes,
            *gate.failures(figures, gate.THRESHOLDS["fp32"]),
            *gate.logit_failures(self.expected, found),
        ]


def case_of(folder: Path, work: Path) -> Case:
    described = describe(folder, None, None)
    texts = [*USUAL, *described.edge_texts]
    answered = answers_of_pipeline(folder, texts, described.model_max_length)
    rows = write_served_tokenizer(folder, work / "tokenizer.json", answered.longest)
    model = described.of_length(answered.longest, rows)
    assert all(isinstance(answer, Answer) for answer in answered.answers)
    expected = Answers.expected([a for a in answered.answers if isinstance(a, Answer)], model.labels)
    assert expected.logits.std(axis=0).min() > 0.05, "the texts' answers differ, or equal ones would prove nothing"
    export(folder, "model.safetensors", model, work / "padded.onnx")
    paths = work / "padded.onnx", work / "tokenizer.json"
    return Case(folder, model, texts, len(described.edge_texts), answered, expected, *paths)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Settings that transformers keeps beside tokenizer.json, all at once, and no length but the model's own."""
    work = tmp_path_factory.mktemp("bert")
    folder = tiny_transformers.make(work / "original", "bert", labels=LABELS)
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="TokenizersBackend",  # that of BERT would make the template anew
        truncation_side="left",
        split_special_tokens=True,
        model_max_length=None,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    content = json.loads((folder / "tokenizer.json").read_text())
    for piece in content["post_processor"]["single"]:
        next(iter(piece.values()))["type_id"] = 1
    edit_json(folder / "tokenizer.json", post_processor=content["post_processor"])
    return case_of(folder, work)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Positions counted from the padding id on, which a text may hold."""
    work = tmp_path_factory.mktemp("roberta")
    folder = tiny_transformers.make(work / "original", "roberta", labels=LABELS)
    edit_json(folder / "tokenizer_config.json", model_max_length=None)
    return case_of(folder, work)


def test_what_is_served_is_what_the_pipeline_answers(bert: Case, roberta: Case, tmp_path: Path) -> None:
    assert bert.model.segment == 1
    assert (bert.model.model_max_length, roberta.model.model_max_length) == (128, 128), "of 128 and 130 positions"
    for case in (bert, roberta):
        plan = Plan(case.model, "fp32", packed=False)
        found = answers_in_float32(case.padded, tmp_path / "g.onnx", case.tokenizer_json, plan, case.texts)
        assert case.refusals(found) == []


Mutation = Callable[[Case, Path], Case]


def of_tokenizer(change: Callable[[dict[str, Any]], Any]) -> Mutation:
    """The tokenizer's file changed in place."""

    def mutate(case: Case, work: Path) -> Case:
        content = json.loads(case.tokenizer_json.read_text(encoding="utf-8"))
        change(content)
        (work / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return replace(case, tokenizer_json=work / "tokenizer.json")

    return mutate


def of_model(**changes: Any) -> Mutation:
    """The description changed."""
    return lambda case, _: replace(case, model=replace(case.model, **changes))


def of_weights(shape: tuple[int, ...], change: Callable[[Any], Any]) -> Mutation:
    """The constants of this shape, or turned, in the exported graph changed."""

    def mutate(case: Case, work: Path) -> Case:
        model = onnx.load(case.padded)
        found = [tensor for tensor in model.graph.initializer if sorted(tensor.dims) == sorted(shape)]
        assert found
        for tensor in found:
            changed = np.asarray(change(numpy_helper.to_array(tensor).copy()), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
        onnx.save(model, work / "padded.onnx")
        return replace(case, padded=work / "padded.onnx")

    return mutate


def in_segment_0(case: Case, work: Path) -> Case:
    export(case.folder, "model.safetensors", replace(case.model, segment=0), work / "padded.onnx")
    return replace(case, padded=work / "padded.onnx")


def with_special_tokens(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    rest = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    content["added_tokens"] = [{"id": vocabulary[name], "content": name, **rest} for name in names]


def exchange(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary["th"], vocabulary["in"] = vocabulary["in"], vocabulary["th"]


def without_end(content: dict[str, Any]) -> None:
    del content["post_processor"]["single"][-1]


MUTATIONS: dict[str, Mutation] = {
    "segment": in_segment_0,
    "truncation side": of_tokenizer(lambda content: content.update(truncation=None)),
    "special tokens in the text": of_tokenizer(with_special_tokens),
    "upper case kept": of_tokenizer(lambda content: content["normalizer"].update(lowercase=False)),
    "accents kept": of_tokenizer(lambda content: content["normalizer"].update(strip_accents=False)),
    "control characters kept": of_tokenizer(lambda content: content["normalizer"].update(clean_text=False)),
    "Chinese characters together": of_tokenizer(
        lambda content: content["normalizer"].update(handle_chinese_chars=False)
    ),
    "longest word": of_tokenizer(lambda content: content["model"].update(max_input_chars_per_word=200)),
    "two tokens exchanged": of_tokenizer(exchange),
    "no end token": of_tokenizer(without_end),
    "one token less": of_model(model_max_length=127),
    "sigmoid": of_model(activation="sigmoid"),
    "raw scores": of_model(activation="none"),
    "order of labels": of_model(labels=("loud", "calm", "odd")),
    "name of a label": of_model(labels=("calm", "loud", "even")),
    "positions": of_weights((128, 32), lambda table: np.roll(table, 1, axis=0)),
    "last position": of_weights((128, 32), lambda table: np.concatenate([table[:-1], table[:1]])),
    "head": of_weights((3, 32), lambda weight: weight * 1.001),
    "not a number": of_weights((3, 32), lambda weight: weight * np.nan),
}


@pytest.mark.parametrize("kind", MUTATIONS)
def test_every_kind_of_mistake_is_refused(bert: Case, tmp_path: Path, kind: str) -> None:
    wrong = MUTATIONS[kind](bert, tmp_path)
    plan = Plan(wrong.model, "fp32", packed=False)
    found = answers_in_float32(wrong.padded, tmp_path / "g.onnx", wrong.tokenizer_json, plan, bert.texts)
    if kind == "not a number":
        assert gate.mistakes(bert.expected, found, bert.texts, 4096) == ["an answer is not a number"]
    else:
        assert bert.refusals(found)


@pytest.mark.parametrize(
    "mutation",
    [
        of_weights((130, 32), lambda table: np.roll(table, 1, axis=0)),
        of_weights((130, 32), lambda table: np.concatenate([table[:1], table[2:3], table[2:]])),
    ],
    ids=["offset", "position of padding"],
)
def test_positions_counted_from_the_padding_id(roberta: Case, tmp_path: Path, mutation: Mutation) -> None:
    wrong = mutation(roberta, tmp_path)
    plan = Plan(wrong.model, "fp32", packed=False)
    found = answers_in_float32(wrong.padded, tmp_path / "g.onnx", wrong.tokenizer_json, plan, roberta.texts)
    assert roberta.refusals(found)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("sigmoid", "the model's graph in float32 does not answer like the original, so nothing was written"),
        ("truncation side", "the served tokenizer does not do what the original's does: .* texts have other tokens"),
    ],
)
def test_prepare_ends_there(bert: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, says: str) -> None:
    """The steps that were made above are not made again."""
    wrong = MUTATIONS[kind](bert, tmp_path)
    usual = len(bert.texts) - bert.edge_cases

    def write_tokenizer(_folder: Path, path: Path, _longest: int) -> tuple[tuple[int, ...], ...]:
        shutil.copyfile(wrong.tokenizer_json, path)
        return wrong.model.sample_rows

    def write_padded(_folder: Path, _weights: str, _model: Description, path: Path) -> None:
        onnx.save(onnx.load(bert.padded), path)

    def check_nothing(*_: object) -> None:
        pass

    made: dict[Any, Callable[..., Any]] = {
        describe: lambda *_: wrong.model,
        check_weights: check_nothing,
        answers_of_pipeline: lambda *_: bert.answered,
        write_served_tokenizer: write_tokenizer,
        export: write_padded,
    }

    def run(step: Callable[..., Any], *given: Any) -> Any:
        return made.get(step, step)(*given)

    monkeypatch.setattr(steps, "isolated", run)
    monkeypatch.setattr(steps, "begun", lambda *step: contextlib.nullcontext(lambda: run(*step)))
    monkeypatch.setattr(pipeline, "read_texts", lambda _: bert.texts[:usual])
    with pytest.raises(GateError, match=says):
        pipeline.prepare(Options(model=str(bert.folder), output=tmp_path / "served"))
    assert not (tmp_path / "served").exists()
