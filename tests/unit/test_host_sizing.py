"""Cores that may be used, and the repository with the instance counts for them."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rejection_server.host.errors import OptionError
from rejection_server.host.sizing import instance_counts, shared_cores, sized_repository, usable_cores
from rejection_server.names import Names
from rejection_server.prepare.configuration import Shape, configurations
from support.repository import REPOSITORY

MANY = 10**6


def groups(cgroups: Path, *limits: str, path: str = "") -> dict[str, Path]:
    """A version 2 hierarchy; `limits` are the lines of cpu.max from the top down to `path`."""
    folder = cgroups
    for name, limit in zip(["", *path.split("/")] if path else [""], limits, strict=True):
        folder = folder / name
        folder.mkdir(exist_ok=True)
        (folder / "cpu.max").write_text(limit + "\n")
    membership = cgroups / "membership"
    membership.write_text(f"0::/{path}\n")
    return {"cgroups": cgroups, "membership": membership}


@pytest.mark.parametrize(
    ("limits", "path", "cores"),
    [
        (["max 100000"], "", MANY),
        (["250000 100000"], "", 2),
        (["50000 100000"], "", 1),
        (["max 100000", "300000 100000", "max 100000"], "a/b", 3),
        (["100000 100000", "max 100000", "800000 100000"], "a/b", 1),
        (["nonsense"], "", MANY),
    ],
)
def test_control_group_limits_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: list[str], path: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(MANY))
    assert usable_cores(**groups(tmp_path, *limits, path=path)) == cores


def test_version_1_limits_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(8))
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, cores in (("350000", 3), ("-1", 8)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
        assert usable_cores(tmp_path, tmp_path / "none") == cores


def test_affinity_limits_cores(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, tmp_path / "none") == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cores", "per_core", "count"), [(1, 1, 1), (2, 1, 2), (2, 0.125, 1), (16, 0.125, 2), (3, 2, 6)]
)
def test_instance_counts(cores: int, per_core: float, count: int) -> None:
    assert instance_counts(cores, per_core) == count


def config_of(repository: Path, model: str) -> Any:
    text = (repository / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def counts_of(repository: Path, model: str) -> list[int]:
    return [group.count for group in config_of(repository, model).instance_group]


def test_bundled_repository_stays_as_it_is_on_two_cores(tmp_path: Path) -> None:
    sizing = sized_repository(REPOSITORY, 2, tmp_path / "sized")
    assert sizing.repository == REPOSITORY
    assert sizing.instances == {"classifier": 2, "tokenizer": 1}
    assert not (tmp_path / "sized").exists()


@pytest.mark.parametrize(("cores", "classifiers", "tokenizers"), [(1, [1], 1), (16, [1, 15], 2), (64, [1, 63], 8)])
def test_bundled_repository_grows(tmp_path: Path, cores: int, classifiers: list[int], tokenizers: int) -> None:
    before = {path: path.read_bytes() for path in REPOSITORY.glob("*/config.pbtxt")}
    sizing = sized_repository(REPOSITORY, cores, tmp_path / "sized")
    assert sizing.instances == {"classifier": sum(classifiers), "tokenizer": tokenizers}
    assert counts_of(sizing.repository, "classifier") == classifiers
    assert counts_of(sizing.repository, "tokenizer") == [tokenizers]
    assert (sizing.repository / "rejection" / "config.pbtxt").samefile(REPOSITORY / "rejection" / "config.pbtxt")
    assert (sizing.repository / "classifier" / "1").samefile(REPOSITORY / "classifier" / "1")
    assert {path: path.read_bytes() for path in REPOSITORY.glob("*/config.pbtxt")} == before


def test_only_the_count_changes(tmp_path: Path) -> None:
    sized = sized_repository(REPOSITORY, 5, tmp_path / "sized").repository
    read = [config_of(folder, "classifier") for folder in (REPOSITORY, sized)]
    for config in read:
        config.instance_group[-1].count = 0
    assert read[0] == read[1]


def test_groups_of_other_kinds_stay(tmp_path: Path) -> None:
    model = tmp_path / "repository" / "classifier"
    model.mkdir(parents=True)
    groups = "{ count: 3 kind: KIND_CPU }, { count: 5 kind: KIND_GPU }, { count: 2 kind: KIND_CPU }"
    parameter = 'parameters { key: "instances_per_core" value: { string_value: "1" } }'
    (model / "config.pbtxt").write_text(f"instance_group [ {groups} ] {parameter}")
    for cores, counts in ((2, [2, 5]), (3, [3, 5]), (9, [3, 5, 6])):
        sizing = sized_repository(tmp_path / "repository", cores, tmp_path / f"sized-{cores}")
        assert counts_of(sizing.repository, "classifier") == counts
        assert sizing.instances == {"classifier": cores}


def test_models_that_do_not_ask_keep_their_counts(tmp_path: Path) -> None:
    repository = Path(shutil.copytree(REPOSITORY, tmp_path / "repository", ignore=shutil.ignore_patterns("*.onnx")))
    config = repository / "classifier" / "config.pbtxt"
    config.write_text(config.read_text().replace("instances_per_core", "another"))
    sizing = sized_repository(repository, 16, tmp_path / "sized")
    assert sizing.instances == {"tokenizer": 2}
    assert (sizing.repository / "classifier").samefile(repository / "classifier")


def test_broken_configuration_is_left_to_triton(tmp_path: Path) -> None:
    (tmp_path / "repository" / "broken").mkdir(parents=True)
    (tmp_path / "repository" / "broken" / "config.pbtxt").write_text("no such field: 1")
    sizing = sized_repository(tmp_path / "repository", 16, tmp_path / "sized")
    assert (sizing.repository, sizing.instances) == (tmp_path / "repository", {})


@pytest.mark.parametrize(
    ("cores", "weights", "shares"),
    [
        (8, {}, {}),
        (8, {"a": 3}, {"a": 8}),
        (1, {"a": 1, "b": 1}, {"a": 1, "b": 1}),
        (2, {"a": 5, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}),
        (4, {"a": 1, "b": 1}, {"a": 2, "b": 2}),
        (5, {"a": 1, "b": 1}, {"a": 3, "b": 2}),
        (6, {"a": 2, "b": 1}, {"a": 4, "b": 2}),
        (64, {"a": 0.5, "b": 1.5}, {"a": 16, "b": 48}),
        (4, {"a": 1000, "b": 1}, {"a": 3, "b": 1}),
    ],
)
def test_cores_are_shared_out_by_weight(cores: int, weights: dict[str, float], shares: dict[str, int]) -> None:
    assert shared_cores(cores, weights) == shares


def several(repository: Path) -> Path:
    """The configurations of three classifiers, and of a model that is no part of one."""
    for name in ("rejection", "toxicity", "language"):
        for file, content in configurations(Shape(("a", "b"), 64), Names(name)).items():
            (repository / file).parent.mkdir(parents=True, exist_ok=True)
            (repository / file).write_text(content)
    (repository / "other").mkdir()
    parameter = 'parameters { key: "instances_per_core" value: { string_value: "0.5" } }'
    (repository / "other" / "config.pbtxt").write_text(f"instance_group [ {{ count: 1 kind: KIND_CPU }} ] {parameter}")
    return repository


def test_classifiers_share_the_cores(tmp_path: Path) -> None:
    repository = several(tmp_path / "repository")
    sizing = sized_repository(repository, 24, tmp_path / "sized", {"toxicity": 2})
    assert sizing.shares == {"language": 6, "rejection": 6, "toxicity": 12}
    assert sizing.instances == {
        "classifier": 6,
        "tokenizer": 1,
        "language_classifier": 6,
        "language_tokenizer": 1,
        "toxicity_classifier": 12,
        "toxicity_tokenizer": 2,
        "other": 12,
    }
    assert counts_of(sizing.repository, "toxicity_classifier") == [1, 11]
    one_each = sized_repository(repository, 2, tmp_path / "small").instances
    assert {name: one_each[name] for name in one_each if "classifier" in name} == {
        "classifier": 1,
        "language_classifier": 1,
        "toxicity_classifier": 1,
    }


def test_a_weight_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"--weight toxic names no classifier of .*: it has language, rejection, tox"):
        sized_repository(several(tmp_path), 4, tmp_path / "sized", {"toxic": 1})


def test_a_repository_for_gpus_grows_with_them(tmp_path: Path) -> None:
    for name, content in configurations(Shape(("a", "b"), 16, device="gpu"), Names()).items():
        (tmp_path / "repository" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repository" / name).write_text(content)
    for gpus, instances, named in ((1, 2, []), (2, 4, [0, 1]), (8, 16, list(range(8)))):
        sizing = sized_repository(tmp_path / "repository", 16, tmp_path / f"on-{gpus}", gpus=gpus)
        assert sizing.instances == {"classifier": instances, "tokenizer": 6}
        (group,) = config_of(sizing.repository, "classifier").instance_group
        assert (group.count, list(group.gpus)) == (2, named)
        pending = config_of(sizing.repository, "tokenizer").parameters["max_pending_requests"].string_value
        assert pending == str(2048 * gpus)


def test_gpus_that_are_named_stay(tmp_path: Path) -> None:
    model = tmp_path / "repository" / "classifier"
    model.mkdir(parents=True)
    (model / "config.pbtxt").write_text("instance_group [ { count: 3 kind: KIND_GPU gpus: [ 1 ] } ]")
    sizing = sized_repository(tmp_path / "repository", 2, tmp_path / "sized", gpus=2)
    assert (sizing.repository, sizing.instances) == (tmp_path / "repository", {"classifier": 3})


def test_no_core_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--cores 0 is too few"):
        sized_repository(REPOSITORY, 0, tmp_path / "sized")
