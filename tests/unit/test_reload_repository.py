"""What Triton is given in place of a prepared repository: versions by number, each at its own name for the cache."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from rejection_server.names import Names
from rejection_server.reload.repository import ServedRepository
from support.repository import REPOSITORY
from support.tree import fingerprint

ONLY = Names()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With versions 1, 2 and 4 of the classifier, and a tokenizer of its own for the last."""
    made = Path(shutil.copytree(REPOSITORY, tmp_path / "repository"))
    for version in ("2", "4"):
        shutil.copytree(made / "classifier" / "1", made / "classifier" / version)
        facts = made / "classifier" / version / "model.json"
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "name": f"model {version}", "precision": "fp32"}))
    shutil.copytree(made / "tokenizer" / "1", made / "tokenizer" / "4")
    return made


def config(served: ServedRepository, model: str) -> Any:
    return text_format.Parse((served.folder / model / "config.pbtxt").read_text(), ModelConfig())


def versions(served: ServedRepository, model: str) -> list[int]:
    """Of a model, as its configuration and its folder say alike."""
    named = sorted(config(served, model).version_policy.specific.versions)
    assert sorted(int(path.name) for path in (served.folder / model).iterdir() if path.name.isdecimal()) == named
    return named


def pins(served: ServedRepository) -> dict[str, int]:
    return {step.model_name: step.model_version for step in config(served, "scoring").ensemble_scheduling.step}


def told(served: ServedRepository) -> dict[str, str]:
    return {name: value.string_value for name, value in config(served, "rejection").parameters.items()}


def test_it_begins_with_the_newest_version(repository: Path, tmp_path: Path) -> None:
    before = fingerprint(repository)
    served = ServedRepository(repository, repository, tmp_path / "served")
    assert served.classifiers == (ONLY,)
    assert [versions(served, model) for model in ONLY.models] == [[4]] * 4
    assert pins(served) == {"tokenizer": 4, "classifier": 4}
    assert fingerprint(repository) == before


def test_a_version_is_loaded_beside_another_and_takes_over(repository: Path, tmp_path: Path) -> None:
    served = ServedRepository(repository, repository, tmp_path / "served")
    assert served.write(ONLY, 4, 2) == ["tokenizer", "classifier"]
    assert (versions(served, "tokenizer"), versions(served, "classifier")) == ([1, 4], [2, 4])
    assert pins(served) == {"tokenizer": 4, "classifier": 4}, "the version before goes on"
    assert served.write(ONLY, 2, 4) == ["rejection"], "Triton loads what it is made of with it"
    assert versions(served, "rejection") == versions(served, "scoring") == [2]
    assert pins(served) == {"tokenizer": 1, "classifier": 2}
    assert served.write(ONLY, 2) == ["tokenizer", "classifier"]
    assert (versions(served, "tokenizer"), versions(served, "classifier")) == ([1], [2])
    assert served.write(ONLY, 2) == []
    assert served.write(ONLY, 1, 2) == ["rejection", "classifier"], "versions 1 and 2 share a tokenizer"


def test_the_public_model_tells_of_the_version_that_answers(repository: Path, tmp_path: Path) -> None:
    first = told(ServedRepository(repository, repository, tmp_path / "first"))
    served = ServedRepository(repository, repository, tmp_path / "served")
    served.write(ONLY, 2, 4)
    assert first["model_id"] == "rejection-minilm-l6", "as the configuration has it"
    assert {name: told(served)[name] for name in ("model_id", "precision", "model_version", "model_max_length")} == {
        "model_id": "model 2",
        "precision": "fp32",
        "model_version": "2",
        "model_max_length": "512",
    }
    served.write(ONLY, 4, 2)
    assert told(served) == first


def test_a_version_that_was_removed_leaves_no_link(repository: Path, tmp_path: Path) -> None:
    served = ServedRepository(repository, repository, tmp_path / "served")
    served.write(ONLY, 4, 2)
    shutil.rmtree(repository / "classifier" / "2")
    served.write(ONLY, 4)
    assert versions(served, "classifier") == [4]


def test_counts_and_other_configurations_are_kept(repository: Path, tmp_path: Path) -> None:
    (repository / "classifier" / "configs").mkdir()
    plain = (repository / "classifier" / "config.pbtxt").read_text()
    (repository / "classifier" / "configs" / "more.pbtxt").write_text(plain + "instance_group [ { count: 7 } ]")
    (repository / "another" / "1").mkdir(parents=True)
    served = ServedRepository(repository, repository, tmp_path / "served", "more")
    assert config(served, "classifier").instance_group[-1].count == 7
    assert (served.folder / "another").samefile(repository / "another")


def test_what_is_no_prepared_classifier_is_left_to_triton(repository: Path, tmp_path: Path) -> None:
    (repository / "scoring" / "config.pbtxt").write_text("no such field: 1")
    served = ServedRepository(repository, repository, tmp_path / "served")
    assert served.classifiers == ()
    assert (served.folder / "classifier").samefile(repository / "classifier")
