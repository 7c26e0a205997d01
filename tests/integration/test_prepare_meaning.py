"""What a model's settings mean for what is served, and those that are refused before anything is made."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from rejection_server.host import ServeOptions, Server
from rejection_server.prepare.describe import describe
from rejection_server.prepare.errors import CorruptedError, UnsupportedError
from rejection_server.prepare.export import check_weights, embedding_rows
from rejection_server.prepare.options import Options
from rejection_server.prepare.pipeline import Prepared, prepare
from rejection_server.prepare.reference import Answer, answers_of_pipeline
from support import tiny_transformers
from support.kserve import Wire
from support.tiny_transformers import transformers

LABELS = ("rejection", "calm", "odd")
TEXTS = ["Sorry, I will not do that.", "", "one </s> two", "The ferry was late, and nobody minded. " * 60]


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes, ensure_ascii=False), encoding="utf-8")


def told(prepared: Prepared) -> dict[str, str]:
    """What the public model's parameters say."""
    config = text_format.Parse((prepared.output / "rejection" / "config.pbtxt").read_text(), ModelConfig())
    return {name: parameter.string_value for name, parameter in config.parameters.items()}


def answered(folder: Path, texts: list[str]) -> list[dict[str, float]]:
    """The pipeline's scores."""
    pipeline = transformers.pipeline("text-classification", model=str(folder), tokenizer=str(folder))
    return [{one["label"]: one["score"] for one in pipeline(text, top_k=None, truncation=True)} for text in texts]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT without anything special, to be copied and changed."""
    return tiny_transformers.make(tmp_path_factory.mktemp("plain") / "original", "bert", labels=LABELS)


def test_a_regression_is_served_with_its_raw_scores(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "grades")
    edit_json(folder / "config.json", problem_type="regression")
    prepared = prepare(Options(model=str(folder), output=tmp_path / "served", precision="fp32"))
    expected = {
        "function_to_apply": "none",
        "problem_type": "regression",
        "positive_label": "rejection",
        "model_id": "grades",
        "model_sha256": prepared.facts["sha256"],
        "precision": "fp32",
        "model_version": "1",
        "model_max_length": "128",
    }
    assert told(prepared) == expected
    with Server(ServeOptions(repository=prepared.output, grpc_port=0, metrics_port=None)) as server:
        served = Wire(server.grpc_address).infer(TEXTS)
    np.testing.assert_array_equal(served["probabilities"], served["logits"])
    scores = [[one[label] for label in LABELS] for one in answered(folder, TEXTS)]
    np.testing.assert_allclose(served["probabilities"], scores, atol=1e-4)
    assert np.abs(served["probabilities"]).max() > 1, "no probabilities"


def test_a_head_that_looks_for_its_end_token(tmp_path: Path) -> None:
    folder = tiny_transformers.make(tmp_path / "bart", "bart", labels=("calm", "loud"))
    prepared = prepare(Options(model=str(folder), output=tmp_path / "served", precision="fp32"))
    assert "positive_label" not in told(prepared)
    assert prepared.facts["model_min_length"] == 2
    with Server(ServeOptions(repository=prepared.output, grpc_port=0, metrics_port=None)) as server:
        wire = Wire(server.grpc_address)
        served, short = wire.infer(TEXTS), wire.infer(TEXTS[:1], max_length=1)
        shortest = wire.infer(TEXTS[:1], max_length=2)
    scores = [[one[label] for label in ("calm", "loud")] for one in answered(folder, TEXTS)]
    np.testing.assert_allclose(served["probabilities"], scores, atol=1e-4)
    np.testing.assert_array_equal(short["logits"], shortest["logits"])


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("config.json", {"id2label": {"0": "a", "1": "b", "2": "a"}}, "more than one label 'a'"),
        (
            "config.json",
            {"auto_map": {"AutoModelForSequenceClassification": "modeling_mean.Mean"}},
            r"custom code, modeling_mean.Mean \(auto_map: AutoModelForSequenceClassification in config.json\)",
        ),
        (
            "config.json",
            {"auto_map": {"AutoConfig": "configuration_mean.Mean"}},
            "custom code, configuration_mean",
        ),
        ("tokenizer_config.json", {"auto_map": ["mine.Tokenizer", None]}, "custom code, mine.Tokenizer"),
        (
            "config.json",
            {"custom_pipelines": {"text-classification": {"impl": "mine.Pipeline"}}},
            r"custom code, mine.Pipeline \(custom_pipelines in config.json\)",
        ),
        ("config.json", {"custom_pipelines": {"text-classification": "mine.Pipeline"}}, "custom code, mine.Pipeline"),
        ("config.json", {"auto_map": {"AutoConfig": 3}}, "custom code, 3"),
        ("config.json", {"auto_map": 3}, "auto_map in config.json is 3, which names no class"),
        ("config.json", {"architectures": 3}, "architectures in config.json is 3, no list of names"),
        ("config.json", {"architectures": [3]}, "architectures in config.json is .3., no list of names"),
    ],
    ids=[
        *("labels", "model", "configuration", "tokenizer", "pipeline", "pipeline's name"),
        *("number for a class", "number for classes", "number for architectures", "architecture without a name"),
    ],
)
def test_settings_that_are_refused(plain: Path, tmp_path: Path, file: str, changes: dict[str, Any], says: str) -> None:
    folder = shutil.copytree(plain, tmp_path / "original")
    edit_json(folder / file, **changes)
    with pytest.raises((UnsupportedError, CorruptedError), match=says):
        describe(folder, None, None)


def test_a_class_that_transformers_does_not_have(plain: Path) -> None:
    model = replace(describe(plain, None, None), architecture="MeanForSequenceClassification")
    with pytest.raises(UnsupportedError, match="transformers has no MeanForSequenceClassification"):
        check_weights(plain, "model.safetensors", model)


def test_an_embedding_of_the_models_own_kind_is_measured() -> None:
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = transformers.IBertForSequenceClassification(transformers.IBertConfig(vocab_size=50, **size))
    assert embedding_rows(model) == 50


def test_a_problem_type_that_transformers_passes_over(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "original")
    edit_json(folder / "config.json", problem_type="token_classification")
    described = describe(folder, None, None)
    assert (described.activation, described.problem_type) == ("softmax", "single_label_classification")


def test_a_length_with_a_point_is_told_to_the_original(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "original")
    edit_json(folder / "tokenizer_config.json", model_max_length=64.0)
    found = answers_of_pipeline(folder, TEXTS[-1:], describe(folder, None, None).model_max_length)
    assert (found.longest, found.cuts_by_itself) == (64, False)
    (answer,) = found.answers
    assert isinstance(answer, Answer)
    assert len(answer.ids) == 64


def test_a_tokenizer_that_takes_no_texts_is_refused(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "original")
    edit_json(folder / "tokenizer_config.json", tokenizer_class="LayoutLMv2Tokenizer")
    with pytest.raises(UnsupportedError, match=r"\(LayoutLMv2Tokenizer\) does not take a text: Words must be"):
        describe(folder, None, None)


def test_code_for_another_task_is_of_no_concern(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "original")
    edit_json(folder / "config.json", auto_map={"AutoModelForMaskedLM": "modeling_mine.Mine"})
    assert describe(folder, None, None).labels == LABELS


def test_several_segments_within_one_text_are_refused(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "original")
    names = ["input_ids", "token_type_ids", "attention_mask"]
    edit_json(folder / "tokenizer_config.json", tokenizer_class="TokenizersBackend", model_input_names=names)
    template = json.loads((folder / "tokenizer.json").read_text())["post_processor"]
    next(iter(template["single"][-1].values()))["type_id"] = 1
    edit_json(folder / "tokenizer.json", post_processor=template)
    with pytest.raises(UnsupportedError, match="puts the tokens of one text into the segments 0, 1"):
        describe(folder, None, None)
