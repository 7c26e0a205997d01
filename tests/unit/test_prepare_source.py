"""Which files of a model are used, and what configuration and labels say about it."""

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from rejection_server.commands import installing
from rejection_server.prepare.describe import check_vocabulary, longest_text
from rejection_server.prepare.errors import (
    CorruptedError,
    MissingPackageError,
    PrepareError,
    SourceError,
    UnsupportedError,
    VocabularyError,
)
from rejection_server.prepare.hub import check_download
from rejection_server.prepare.labels import activation_of, labels_of, positive_label_of
from rejection_server.prepare.options import SAMPLE, read_texts
from rejection_server.prepare.source import Choice, choose_files, find_source
from support.repository import ROOT

PUBLISHED = [
    *("README.md", "config.json", "merges.txt", "model.safetensors", "pytorch_model.bin", "special_tokens_map.json"),
    *("tokenizer.json", "tokenizer_config.json", "training_args.bin", "vocab.json", "onnx/config.json"),
    *("onnx/model.onnx", "onnx/merges.txt", "onnx/tokenizer.json", "onnx/vocab.json"),
]


def choose(names: Sequence[str], has_torch: bool = True, allow_pickle: bool = False) -> Choice:
    return choose_files(names, has_torch=has_torch, allow_pickle=allow_pickle)


def without(*names: str) -> list[str]:
    return [name for name in PUBLISHED if name not in names]


def test_only_what_is_needed_of_the_published_model() -> None:
    small = {"config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx"}
    assert set(choose(PUBLISHED, has_torch=False).files) == small
    assert set(choose(PUBLISHED).files) == small | {"model.safetensors"}


def test_weights_beside_the_graph() -> None:
    names = [*without("onnx/model.onnx"), "model.onnx", "model.onnx_data", "model.onnx.data", "model.onnxish"]
    chosen = choose(names)
    assert chosen.onnx == "model.onnx"
    assert {"model.onnx_data", "model.onnx.data"} <= set(chosen.files)
    assert "model.onnxish" not in chosen.files


def test_a_tokenizer_without_its_json() -> None:
    assert {"vocab.json", "merges.txt"} <= set(choose(without("tokenizer.json")).files)
    bare = without("tokenizer.json", "vocab.json", "merges.txt")
    assert "sentencepiece.model" in choose([*bare, "sentencepiece.model"]).files, "RemBERT's"


@pytest.mark.parametrize(
    ("names", "options", "error", "says"),
    [
        (without("config.json"), {}, SourceError, "no config.json"),
        (without("onnx/model.onnx", "model.safetensors"), {}, UnsupportedError, "allow it with --allow-pickle"),
        (without("onnx/model.onnx", "model.safetensors", "pytorch_model.bin"), {}, SourceError, "neither"),
        (
            without("onnx/model.onnx"),
            {"has_torch": False},
            MissingPackageError,
            re.escape(f"run {installing('export')}"),
        ),
        (without("tokenizer.json", "vocab.json", "merges.txt"), {}, SourceError, "no tokenizer that can be read"),
    ],
)
def test_what_is_not_enough(
    names: Sequence[str], options: dict[str, bool], error: type[PrepareError], says: str
) -> None:
    with pytest.raises(error, match=says):
        choose(names, **options)


def test_what_the_command_installs_exists() -> None:
    assert "export" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert re.search(r"^# .*\bexport\b", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


def test_pickles_are_used_only_when_allowed_and_only_for_want_of_better() -> None:
    assert choose(PUBLISHED, allow_pickle=True).weights == "model.safetensors"
    assert choose(without("model.safetensors"), allow_pickle=True).weights == "pytorch_model.bin"
    assert choose(without("model.safetensors")).weights is None


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no folder \\./nothing"):
        find_source("./nothing", None, has_torch=False)
    with pytest.raises(SourceError, match="a folder has no revisions"):
        find_source(str(tmp_path), "main", has_torch=False)


@pytest.mark.parametrize("large", [False, True])
def test_a_file_that_differs_from_its_checksum_is_removed(tmp_path: Path, large: bool) -> None:
    blob, link = tmp_path / "blob", tmp_path / "config.json"
    blob.write_bytes(b"{}")
    link.symlink_to(blob)
    sha256 = hashlib.sha256(b"{}").hexdigest() if large else None
    git = hashlib.sha1(b"blob 2\0{}").hexdigest()
    check_download(link, sha256, git)
    blob.write_bytes(b"[]")
    with pytest.raises(CorruptedError, match=r"config\.json is corrupted"):
        check_download(link, sha256, git)
    assert not list(tmp_path.iterdir())


def test_labels() -> None:
    assert labels_of({"1": "REJECTION", "0": "NORMAL"}) == ("NORMAL", "REJECTION")
    assert labels_of({i: "k" if i == 10 else str(i) for i in (10, *range(10))})[10] == "k"
    several: tuple[dict[int | str, str], ...] = ({}, {0: "a", 2: "b"}, {0: "a\nb"}, {0: " "}, {0: "a\0"}, {0: "\ud800"})
    for wrong in several:
        with pytest.raises(UnsupportedError):
            labels_of(wrong)


def test_activations() -> None:
    assert activation_of(2, None) == "softmax"
    assert activation_of(3, "single_label_classification") == "softmax"
    assert activation_of(3, "multi_label_classification") == "sigmoid"
    assert activation_of(1, None) == "sigmoid"
    assert activation_of(1, "regression") == activation_of(3, "regression") == "none"


def test_labels_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="more than one label 'calm', and answers are told apart"):
        labels_of({0: "calm", 1: "loud", 2: "calm"})


@pytest.mark.parametrize(
    ("labels", "asked", "found"),
    [
        (("NORMAL", "REJECTION"), None, "REJECTION"),
        (("rejection", "normal"), None, "rejection"),
        (("Rejection", "REJECTION"), None, "REJECTION"),
        (("Rejection", "rejection"), None, None),
        (("calm", "loud"), None, None),
        (("calm", "loud"), "LOUD", "loud"),
    ],
)
def test_the_label_that_is_looked_for(labels: tuple[str, ...], asked: str | None, found: str | None) -> None:
    assert positive_label_of(labels, asked) == found


def test_a_label_that_the_model_does_not_have() -> None:
    with pytest.raises(UnsupportedError, match=r"no label 'refusal' \(--positive-label\); its labels are calm, loud"):
        positive_label_of(("calm", "loud"), "refusal")


@pytest.mark.parametrize(
    ("positions", "tokenizer_length", "longest"),
    [
        (514, 512, 512),
        (514, int(1e30), 514),  # which of these it takes is tried
        (512, 128, 128),
        (None, 100, 100),
        (-1, None, 2048),
        (None, int(1e30), 2048),
    ],
)
def test_longest_text(positions: int | None, tokenizer_length: int | None, longest: int) -> None:
    assert longest_text({"max_position_embeddings": positions}, tokenizer_length) == longest


def test_a_longest_text_that_is_no_number_is_refused() -> None:
    with pytest.raises(CorruptedError, match="the tokenizer's model_max_length must be a number of tokens, not '128'"):
        longest_text({"max_position_embeddings": 128}, "128")  # type: ignore[arg-type]


def test_vocabulary() -> None:
    check_vocabulary(99, 100)
    with pytest.raises(VocabularyError, match="ids up to 100, the model has embeddings for 0 to 99"):
        check_vocabulary(100, 100)


def test_the_bundled_sample_is_varied() -> None:
    texts = read_texts(SAMPLE)
    assert len(set(texts)) == len(texts) >= 200
    sizes = sorted(len(text) for text in texts)
    assert sizes[0] <= 3
    assert sizes[-1] > 2000
    scripts = ("а", "α", "ا", "א", "ह", "的", "の", "다", "ż", "ş", "ß", "ñ", "ç")
    for letter in scripts:
        assert any(letter in text for text in texts), letter


def test_too_few_texts(tmp_path: Path) -> None:
    path = tmp_path / "few.txt"
    path.write_text("one\n\ntwo\n")
    with pytest.raises(Exception, match="holds 2 texts; at least 200"):
        read_texts(path)


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = model_folder(tmp_path / "model")
    (tmp_path / "secret").write_text("{}")
    (folder / name).unlink()
    (folder / name).symlink_to("../secret")
    with pytest.raises(SourceError, match=rf"{name} is {tmp_path}/secret, outside the model's folder"):
        find_source(str(folder), None, has_torch=True)
    (folder / name).unlink()
    (folder / "inside").write_text("{}")
    (folder / name).symlink_to("inside")
    assert name in find_source(str(folder), None, has_torch=True).files


def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (tmp_path / "other.safetensors").write_text("{}")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(PrepareError):
        find_source(str(folder), None, has_torch=True)


def test_a_folder_of_the_hubs_cache_has_its_files_beside_it(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "models--me--it" / "snapshots" / "0123")
    blobs = tmp_path / "models--me--it" / "blobs"
    blobs.mkdir()
    (folder / "config.json").rename(blobs / "abc")
    (folder / "config.json").symlink_to("../../blobs/abc")
    assert "config.json" in find_source(str(folder), None, has_torch=True).files
