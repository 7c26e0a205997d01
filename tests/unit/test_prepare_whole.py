"""Files that cannot be what their names say are refused before anything is made of them, in one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rejection_server.prepare.errors import CorruptedError, PrepareError, SourceError, UnsupportedError
from rejection_server.prepare.source import find_source, read_object
from rejection_server.prepare.whole import check_whole
from rejection_server.wording import one_line

CONFIG = {"architectures": ["BertForSequenceClassification"], "vocab_size": 9, "id2label": {"0": "a", "1": "b"}}


def folder_with(tmp_path: Path, settings: dict[str, Any] = CONFIG) -> Path:
    """A model's folder, as far as it is looked at here."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {}}}))
    save_file({"weight": np.ones((2, 3), np.float32)}, folder / "model.safetensors")
    return folder


def refusal(folder: Path, kind: type[PrepareError] = CorruptedError) -> str:
    with pytest.raises(kind) as caught:
        check_whole(find_source(str(folder), None, has_torch=True))
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_a_whole_one(tmp_path: Path) -> None:
    check_whole(find_source(str(folder_with(tmp_path)), None, has_torch=True))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", b"", "is empty: fetch it again"),
        ("config.json", b"[1]", "must hold a JSON object, this one holds a list"),
        ("config.json", b'{"a"', "is not valid JSON"),
        ("config.json", b"[" * 100_000, "is not valid JSON"),
        ("config.json", '{"a": "ä"}'.encode("utf-16"), "is not valid JSON"),
        ("tokenizer.json", b"{}", "holds no tokenizer (model)"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 1000000000}}}', "it numbers the token 'a' 1000000000"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": -1}}}', "it numbers the token 'a' -1"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": "x"}}}', "it numbers the token 'a' 'x'"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "run git lfs pull there"),
        ("model.safetensors", b"<html>not found</html>", "model.safetensors is damaged"),
        ("model.safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "holds no weights"),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    folder = folder_with(tmp_path)
    (folder / name).write_bytes(content)
    message = refusal(folder)
    assert says in message
    assert str(folder / name) in message


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("vocab_size", -1, "says vocab_size -1, which is no possible size"),
        ("decoder_attention_heads", 0, "says decoder_attention_heads 0, which is no possible size"),
        ("hidden_size", "32", "says hidden_size '32', which is no possible size"),
        ("num_attention_heads", 0, "says num_attention_heads 0"),
        ("intermediate_size", True, "says intermediate_size True"),
        ("vocab_size", 10**12, "says vocab_size 1000000000000"),
        ("num_hidden_layers", 10**6, "says num_hidden_layers 1000000"),
        ("architectures", "Bert", "architectures must be a list of names, not 'Bert'"),
        ("architectures", [3], "architectures must be a list of names, not [3]"),
        ("id2label", ["a"], "id2label must name a label for each number, not ['a']"),
        ("id2label", {"x": "a"}, "id2label must name a label for each number"),
        ("id2label", {"0": ["\x1b[31m"]}, "id2label must name a label for each number"),
    ],
)
def test_settings_that_no_model_has(tmp_path: Path, setting: str, value: Any, says: str) -> None:
    folder = folder_with(tmp_path, {**CONFIG, setting: value})
    assert says in refusal(folder)


def test_weights_that_are_quantised_already(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    save_file({"weight": np.ones((2, 3), np.int8)}, folder / "model.safetensors")
    assert "holds weight as I8: weights must be F64, F32, F16, BF16" in refusal(folder, UnsupportedError)
    quantised = json.dumps({**CONFIG, "quantization_config": {"quant_method": "gptq"}}).encode()
    (folder / "config.json").write_bytes(quantised)
    assert "quantised already (quantization_config" in refusal(folder, UnsupportedError)


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ({}, "its weight_map must name a .safetensors file of this folder for each tensor"),
        ({"weight": "../../etc/passwd"}, "its weight_map must name a .safetensors file of this folder"),
        ({"weight": "/etc/passwd"}, "its weight_map must name a .safetensors file of this folder"),
        ({"weight": ".."}, "its weight_map must name a .safetensors file of this folder"),
        ({"weight": "pytorch_model.bin"}, "its weight_map must name a .safetensors file of this folder"),
        ({"weight": ["a.safetensors"]}, "its weight_map must name a .safetensors file of this folder"),
        ({"weight": 3}, "its weight_map must name a .safetensors file of this folder"),
        ({"weight": "part.safetensors"}, "names part.safetensors, which is not in the folder"),
    ],
)
def test_indexes(tmp_path: Path, places: dict[str, Any], says: str) -> None:
    folder = folder_with(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert says in refusal(folder, SourceError)


def test_what_is_there_instead_is_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    assert "neither model.safetensors nor an ONNX file" in (message := refusal(folder, SourceError))
    assert "it has tf_model.h5, which is not read" in message
    assert "is a file: name the folder that holds it" in refusal(folder / "config.json", SourceError)
    with pytest.raises(SourceError, match="cannot be looked up"):
        find_source("a" * 5000, None, has_torch=True)


def test_a_pipe_in_the_place_of_a_file_stops_nobody(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert "neither model.safetensors" in refusal(folder, SourceError)


def test_other_peoples_words_on_one_line() -> None:
    error = RuntimeError("\x1b[96mFailed\x1b[0m\n\nto\tload:\x00 \x1b]0;title\x07" + "word " * 100)
    line = one_line(error, 40)
    assert line.isprintable()
    assert line.startswith("Failed to load: word")
    assert line.endswith(" ...")
    assert len(line) <= 44
    assert one_line(KeyError()) == "KeyError"
    assert one_line(ValueError("It is over. ")) == "It is over"


def test_json_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("null")
    with pytest.raises(CorruptedError, match="this one holds null"):
        read_object(tmp_path / "a.json")
    with pytest.raises(CorruptedError, match="cannot be read: No such file"):
        read_object(tmp_path / "b.json")


SPEAKS = """
import os, subprocess, sys, warnings
from rejection_server.prepare.quiet import only_our_words
with only_our_words(verbose={verbose}):
    os.write(2, b"a library\\n")
    warnings.warn("a warning")
    subprocess.run(["sh", "-c", "echo a child >&2"])
    print("our words", file=sys.stderr)
print("afterwards", file=sys.stderr)
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_only_our_words_are_seen(verbose: bool) -> None:
    program = SPEAKS.format(verbose=verbose)
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    if not verbose:
        assert said == "our words\nafterwards\n"
    else:
        assert {"a library", "a child", "our words", "afterwards"} < set(said.splitlines())
