"""Downloads from a server that speaks the hub's protocol, by the command, and every way in which they can fail."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from rejection_server.commands import command
from rejection_server.prepare.errors import PrepareError
from rejection_server.prepare.export import export
from rejection_server.prepare.options import Options
from rejection_server.prepare.pipeline import prepare
from rejection_server.prepare.reference import Answer, answers_of_pipeline
from rejection_server.prepare.source import find_source
from support import tiny_transformers
from support.hub import COMMIT, Hub
from support.limited import limited
from support.tiny_models import description
from support.tiny_transformers import torch, transformers
from support.tree import fingerprint

PREPARE = [sys.executable, "-m", "rejection_server", "prepare"]
NAME = "acme/tone"
UNKNOWN = "acme/nothing"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Laid out like the model on the hub: weights, their ONNX form in a folder of its own, and files nobody needs."""
    folder = tiny_transformers.make(
        tmp_path_factory.mktemp("hub"), "distilroberta", settings={"initializer_range": 0.1}
    )
    (folder / "onnx").mkdir()
    padded = folder / "onnx" / "external.onnx"
    export(folder, "model.safetensors", description(model_max_length=128), padded)
    onnx.save(onnx.load(padded), folder / "onnx" / "model.onnx")
    for path in (padded, padded.with_name("external.onnx.data")):
        path.unlink()
    (folder / "README.md").write_text("# Tone\n")
    (folder / "training_args.bin").write_bytes(b"not needed")
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[Hub]:
    with Hub(published, NAME) as hub:
        yield hub


def run(
    tmp_path: Path,
    model: str,
    *options: str,
    endpoint: str = "http://127.0.0.1:9",
    largest_file: int = resource.RLIM_INFINITY,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    variables |= {
        "HF_HOME": str(tmp_path / "cache"),
        "HF_ENDPOINT": endpoint,
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    asked = [*PREPARE, model, "--output", str(tmp_path / "served"), *options]
    return subprocess.run(
        limited(asked, resource.RLIMIT_FSIZE, largest_file),
        env=variables,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


def refused(tmp_path: Path, *args: str, **kwargs: Any) -> str:
    """The message of a run that must fail: one line, a status of 1, and nothing written."""
    result = run(tmp_path, *args, **kwargs)
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    assert [path.name for path in tmp_path.iterdir() if "served" in path.name] == []
    assert "Traceback" not in result.stderr
    message = result.stderr.rstrip().splitlines()[-1]
    assert message.startswith(f"{command('prepare')}: ")
    return message


def test_a_model_from_the_hub_then_again_without_it(tmp_path: Path, hub: Hub) -> None:
    result = run(tmp_path, NAME, "--precision", "fp32", endpoint=hub.url)
    assert result.returncode == 0, result.stderr
    facts = json.loads((tmp_path / "served/classifier/1/model.json").read_text())
    assert (facts["source"], facts["revision"], facts["name"]) == (NAME, COMMIT, "tone")
    needed = {"config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx", "model.safetensors"}
    assert set(facts["inputs_sha256"]) == needed == hub.files_sent()
    assert facts["inputs_sha256"] == {k: v for k, v in fingerprint(hub.folder).items() if k in needed}
    assert "| all " in result.stdout
    assert "GB of memory." in result.stdout
    assert f"{command('serve')} --repository {tmp_path / 'served'}" in result.stdout

    before = len(hub.requests)
    again = (
        "from rejection_server.prepare.source import find_source; "
        f"source = find_source({NAME!r}, None, has_torch=True); print(source.revision, len(source.files))"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    offline = subprocess.run([sys.executable, "-c", again], env=environment, capture_output=True, text=True, check=True)
    assert offline.stdout.split() == [COMMIT, "5"]
    assert len(hub.requests) == before


def test_unknown_model(tmp_path: Path, hub: Hub) -> None:
    assert f"the hub has no model {UNKNOWN}, or it is private" in refused(tmp_path, UNKNOWN, endpoint=hub.url)


def test_unknown_revision(tmp_path: Path, hub: Hub) -> None:
    message = refused(tmp_path, NAME, "--revision", "v9", endpoint=hub.url)
    assert f"the hub has no {NAME} at revision v9" in message


def test_no_network(tmp_path: Path) -> None:
    message = refused(tmp_path, NAME)
    assert f"the hub (http://127.0.0.1:9) could not be reached for {NAME}: check the network" in message


def test_offline_without_a_cache(tmp_path: Path) -> None:
    assert "HF_HUB_OFFLINE forbids asking the hub" in refused(tmp_path, NAME, HF_HUB_OFFLINE="1")


def test_hub_down(tmp_path: Path, hub: Hub) -> None:
    hub.down = True
    assert f"the hub answered status 503 for {NAME}: try again later" in refused(tmp_path, NAME, endpoint=hub.url)


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_gated_without_the_right_token(tmp_path: Path, hub: Hub, token: str | None) -> None:
    hub.gated = True
    more: dict[str, str] = {} if token is None else {"HF_TOKEN": token}
    message = refused(tmp_path, NAME, endpoint=hub.url, **more)
    assert f"{NAME} is gated: ask for access on its page on the hub, then set HF_TOKEN" in message


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_corrupted_download(tmp_path: Path, hub: Hub, name: str) -> None:
    hub.flip = name
    message = refused(tmp_path, NAME, endpoint=hub.url)
    assert f"the download of {name} is corrupted" in message
    hub.flip = None
    hub.requests.clear()
    hub.gated = True  # fails again, but only after the files were asked for
    refused(tmp_path, NAME, endpoint=hub.url)
    assert any(path.endswith(name) for _, path, _ in hub.requests), "fetched anew"


def test_disk_full_while_downloading(tmp_path: Path, hub: Hub) -> None:
    """The system refuses to let a file grow beyond 40 kB, as it refuses all on a full disk."""
    message = refused(tmp_path, NAME, endpoint=hub.url, largest_file=40_000)
    assert "the disk is full" in message


def test_disk_full_while_writing(tmp_path: Path, published: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("a small disk could not be mounted")
    try:
        result = run(tmp_path, str(published), "--output", str(disk / "served"))
        assert result.returncode == 1
        assert "the disk is full" in result.stderr.splitlines()[-1]
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_transformers.make(tmp_path / "original", "distilroberta")


def said_of(folder: Path) -> str:
    """What preparing the folder is refused with; nothing is left beside it."""
    with pytest.raises(PrepareError) as refusal:
        prepare(Options(model=str(folder), output=folder.parent / "served", precision="fp32"))
    assert [path.name for path in folder.parent.iterdir()] == ["original"]
    assert "\n" not in str(refusal.value), "one sentence"
    return str(refusal.value)


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_not_a_sequence_classifier(folder: Path) -> None:
    configure(folder, architectures=["RobertaForMaskedLM"])
    assert "not a text classifier: its architecture is RobertaForMaskedLM" in said_of(folder)


def test_weights_without_a_head(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    transformers.RobertaForSequenceClassification.from_pretrained(folder).roberta.save_pretrained(folder)
    (folder / "config.json").write_text(config)
    assert "not those of a trained text classifier: classifier." in said_of(folder)


def test_vocabulary_beyond_the_embedding(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["extraordinary"])
    tokenizer.save_pretrained(folder)
    size = len(tokenizer)
    assert f"gives ids up to {size - 1}, the model has embeddings for 0 to {size - 2}" in said_of(folder)


def test_damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors is damaged" in said_of(folder)


def test_a_tokenizer_in_python_only(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    transformers.CanineTokenizer().save_pretrained(folder)
    (folder / "vocab.txt").write_text("a\n")
    assert "(CanineTokenizer) exists in Python only" in said_of(folder)


def test_code_from_the_model_is_not_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    ran = tmp_path_factory.mktemp("ran") / "yes"
    configure(folder, model_type="surprise", auto_map={"AutoConfig": "surprise.Config"})
    (folder / "surprise.py").write_text(f"open({str(ran)!r}, 'w')\n")
    assert "needs custom code, surprise.Config (auto_map: AutoConfig in config.json)" in said_of(folder)
    assert not ran.exists()


def test_pickled_weights_only_by_name(folder: Path) -> None:
    (expected,) = answers_of_pipeline(folder, ["Not today."], 128).answers
    model = transformers.RobertaForSequenceClassification.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "allow it with --allow-pickle" in said_of(folder)
    source = find_source(str(folder), None, has_torch=True, allow_pickle=True)
    assert source.weights == "pytorch_model.bin"
    (found,) = answers_of_pipeline(folder, ["Not today."], 128).answers
    assert isinstance(found, Answer)
    assert isinstance(expected, Answer)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, published: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    result = run(tmp_path, str(published), "--output", str(tmp_path / "home"))
    assert result.returncode == 1
    assert "holds other things than a prepared model repository" in result.stderr
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_a_signal_leaves_nothing_behind(tmp_path: Path, published: Path) -> None:
    """Ended in the middle, when files are written and processes run."""
    with subprocess.Popen(
        [*PREPARE, str(published), "--output", str(tmp_path / "served")], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "labels" in line:
                break
        assert any("preparing" in path.name for path in tmp_path.iterdir())
        process.send_signal(signal.SIGTERM)
        assert "nothing was written" in process.stderr.read()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
