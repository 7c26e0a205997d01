"""The benchmark's peers: the parts that need none of their environments. Starting them is left to `scripts/bench`."""

import contextlib
import json
import os
import pickle
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.contract import ModelFiles
from bench.peers import environment
from bench.peers import peer as peers
from bench.peers.callers import CallError, HttpCaller, InfinityCaller, by_label
from bench.peers.catalogue import PEERS, checkpoint, tokenizer_settings
from bench.peers.peer import Peer, PeerError, Program, Start, check, usual_settings
from bench.peers.rows import inputs, settings, softmax
from bench.settings import REPOSITORY, Precision


@pytest.fixture
def model(tmp_path: Path) -> ModelFiles:
    folder = tmp_path / "files"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "config.json").write_text('{"type_vocab_size": 1}')
    (folder / "checkpoint" / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    for name in ("float32.onnx", "int8.onnx", "checkpoint/model.safetensors"):
        (folder / name).write_bytes(b"")
    (folder / "tokenizer.json").symlink_to(REPOSITORY / "tokenizer" / "1" / "tokenizer.json")
    return ModelFiles(
        name="tiny",
        tokenizer=folder / "tokenizer.json",
        checkpoint=folder / "checkpoint",
        graphs={"float32": folder / "float32.onnx", "int8": folder / "int8.onnx"},
        repositories={},
        max_length=128,
        labels=("NORMAL", "REJECTION"),
    )


Starting = Callable[..., Start]


@pytest.fixture
def start(model: ModelFiles, tmp_path: Path) -> Starting:
    def of(peer: Peer, precision: Precision, cores: int = 3) -> Start:
        for name in ("run", "cache"):
            (tmp_path / name).mkdir()
        folders = (tmp_path / "run", tmp_path / "cache", environment.PEERS / peer.folder)
        return Start(model, precision, cores, 4711, *folders, Path(sys.executable), print)

    return of


def peer_named(name: str) -> Peer:
    return next(peer for peer in PEERS if peer.name == name)


def test_names_are_unique_and_fit_for_file_names() -> None:
    names = [peer.name for peer in PEERS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


def test_both_precisions_are_covered() -> None:
    assert all(peer.precisions and set(peer.precisions) <= {"float32", "int8"} for peer in PEERS)
    for precision in ("float32", "int8"):
        assert sum(precision in peer.precisions for peer in PEERS) >= 3


@pytest.mark.parametrize("folder", sorted({peer.folder for peer in PEERS}))
def test_each_peer_is_pinned(folder: str) -> None:
    lines = environment.pins(folder).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert all("==" in pin for pin in pins)
    pinned = {re.split(r"[=\[ ;]", pin)[0].lower().replace("_", "-") for pin in pins}
    torch = environment.torch_pin(lines)
    for line in (environment.PEERS / folder / "requirements.in").read_text().split():
        name = re.split(r"[=<>\[]", line)[0]
        assert name in pinned or (torch or "").startswith(f"{name}==")
    assert not [name for name in pinned if name.startswith(("nvidia-", "cuda-"))]


def test_mlserver_is_installed_without_tensorflow() -> None:
    pins = environment.pins("mlserver").read_text()
    assert "\nmlserver-huggingface==" in pins
    assert not re.search(r"^(tensorflow|tf-keras|keras)\b", pins, re.MULTILINE)


def test_mlserver_sets_no_threads_between_operations(start: Starting) -> None:
    job = start(peer_named("mlserver"), "float32")
    peer_named("mlserver").prepare(job)
    extra = json.loads((job.folder / "model-settings.json").read_text())["parameters"]["extra"]
    assert extra["intra_op_threads"] == 1
    assert "inter_op_threads" not in extra  # set a second time, torch ends the worker's loading


def test_each_program_compiles() -> None:
    programs = list(environment.PEERS.rglob("*.py"))
    assert len(programs) > 10
    for path in programs:
        compile(path.read_text(), path, "exec")


@pytest.mark.parametrize(
    ("peer", "precision"),
    [(peer, precision) for peer in PEERS for precision in peer.precisions],
    ids=lambda value: getattr(value, "name", value),
)
def test_commands_use_the_own_interpreter_port_and_model(
    peer: Peer, precision: Precision, start: Starting, model: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.peers.catalogue.run", lambda _: None)
    job = start(peer, precision)
    program = peer.prepare(job)
    assert Path(program.command[0]).parent == Path(sys.executable).parent
    said = " ".join(map(str, [*program.command, *program.settings.values()]))
    said += "".join(path.read_text() for path in job.folder.glob("*.json"))
    assert "4711" in said
    assert "0.0.0.0" not in said
    assert pickle.loads(pickle.dumps(program.caller)) == program.caller  # it is opened in another process
    for path in job.folder.rglob("*"):
        assert path.exists(), f"{path} points nowhere"
    if peer.name.startswith("infinity-") or (peer.name == "mlserver" and precision == "int8"):
        assert next(job.folder.rglob("*.onnx")).resolve() == model.graphs[precision]


def given(program: Program, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in program.settings.items():
        monkeypatch.setenv(name, value)
    return settings()


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_handwritten_servers_get_a_worker_for_each_core(
    precision: Precision, start: Starting, model: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = peer_named("mosec-ort")
    said = given(peer.prepare(start(peer, precision, cores=5)), monkeypatch)
    assert said["workers"] == 5
    assert said["max_length"] == model.max_length
    assert said["model"] == str(model.graphs[precision])


def test_a_row_is_given_as_either_graph_takes_it() -> None:
    padded = inputs([7, 8], ["input_ids", "attention_mask"])
    assert {name: value.tolist() for name, value in padded.items()} == {
        "input_ids": [[7, 8]],
        "attention_mask": [[1, 1]],
    }
    served = inputs([7, 8], ["input_ids", "sequence_lengths"])
    assert {name: value.tolist() for name, value in served.items()} == {"input_ids": [7, 8], "sequence_lengths": [[2]]}


def test_the_bundled_model_goes_to_those_that_take_it_alone() -> None:
    assert [peer.name for peer in PEERS if peer.serves(["bundled"])] == ["mosec-ort", "litserve-ort"]
    assert peer_named("fastapi").serves(["bundled", "m"]) == [("m", "float32")]


def test_openvino_model_is_converted_once(start: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def convert(command: list[Path]) -> None:
        commands.append(command)
        for suffix in (".xml", ".bin"):
            command[3].with_suffix(suffix).write_bytes(b"")

    monkeypatch.setattr("bench.peers.catalogue.run", convert)
    peer = peer_named("mosec-openvino")
    job = start(peer, "int8")
    first, second = peer.prepare(job), peer.prepare(job)
    assert first == second
    ((*_, converted, rows),) = commands
    assert given(first, monkeypatch)["model"] == str(converted)
    calibration = json.loads(rows.read_text())
    assert len(calibration) == 128
    assert max(map(len, calibration)) == job.model.max_length


def test_checkpoint_reads_alike_in_every_version_and_truncates(model: ModelFiles, tmp_path: Path) -> None:
    folder = checkpoint(model, tmp_path / "copy")
    written = (folder / "tokenizer_config.json").read_text()
    assert '"model_max_length": 128' in written
    assert '"tokenizer_class": "PreTrainedTokenizerFast"' in written
    assert model.checkpoint is not None
    assert (folder / "model.safetensors").samefile(model.checkpoint / "model.safetensors")


@pytest.mark.parametrize(
    ("known", "types", "names"),
    [
        ({"tokenizer_class": "BertTokenizer"}, 2, None),
        ({}, 2, ["input_ids", "token_type_ids", "attention_mask"]),
        ({"tokenizer_class": "TokenizersBackend"}, 1, ["input_ids", "attention_mask"]),
    ],
)
def test_tokenizer_settings(known: dict[str, Any], types: int, names: list[str] | None) -> None:
    written = tokenizer_settings(known, {"type_vocab_size": types}, 77)
    assert written["model_max_length"] == 77
    assert written.get("model_input_names") == names


def test_model_without_checkpoint_is_named(model: ModelFiles, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="tiny has no Hugging Face checkpoint"):
        checkpoint(replace(model, checkpoint=None), tmp_path / "model")


def test_unsupported_precision_is_refused(model: ModelFiles) -> None:
    with (
        pytest.raises(PeerError, match="fastapi serves float32, not int8"),
        peer_named("fastapi").start(model, "int8", 1, print),
    ):
        pass


def test_scores_are_put_into_the_order_of_the_labels() -> None:
    rows = [
        [{"label": "B", "score": 0.75}, {"label": "A", "score": 0.25}],
        [{"label": "A", "score": 1.0}, {"label": "B", "score": 0.0}],
    ]
    assert by_label(rows, ("A", "B")).tolist() == [[0.25, 0.75], [1.0, 0.0]]
    assert by_label(rows, ("A", "B")).dtype == np.float32


@pytest.mark.parametrize("row", [[{"label": "A", "score": 1.0}], [{"label": "A", "score": 1.0}] * 2])
def test_missing_label_is_an_error(row: list[dict[str, Any]]) -> None:
    with pytest.raises(CallError, match="each of A, B"):
        by_label([row], ("A", "B"))


def test_bodies() -> None:
    assert HttpCaller("u", ("A",)).body(("x",)) == {"texts": ["x"]}
    assert InfinityCaller("u", ("A",)).body(("x",)) == {"model": "classifier", "input": ["x"]}


def test_softmax_does_not_overflow() -> None:
    assert softmax(np.array([[1000.0, 1000.0], [0.0, -1e9]], np.float32)).tolist() == [[0.5, 0.5], [1.0, 0.0]]


def test_probe_wants_probabilities() -> None:
    check(np.array([[0.5, 0.5]], np.float32), 1, 2)
    for wrong in ([[0.5, 0.6]], [[1.0]]):
        with pytest.raises(PeerError, match="not with 2 probabilities"):
            check(np.array(wrong, np.float32), 1, 2)


def test_peers_get_no_network_and_no_settings_of_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    usual = usual_settings()
    assert usual["HF_HUB_OFFLINE"] == "1"
    assert "PYTHONPATH" not in usual


def test_whole_process_group_is_stopped_and_the_log_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    script = "trap '' TERM; sleep 1000 & echo $!; wait"  # deaf to the polite signal, and with a child
    monkeypatch.setattr(peers, "STOP_GRACE_S", 0.1)
    with peers.running(["bash", "-c", script], {"PATH": os.environ["PATH"]}, tmp_path, log) as leader:
        child = _first_line(log)
    assert leader.returncode is not None
    assert _is_gone(int(child))
    assert peers.tail_of(log) == child


def test_pins_that_changed_make_an_environment_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PEERS", tmp_path)
    monkeypatch.setattr(environment, "BUILD", tmp_path / "build")
    (tmp_path / "some").mkdir()
    environment.pins("some").write_text("a==1\n")
    assert not environment.is_current("some")
    environment.python("some").parent.mkdir(parents=True)
    environment.python("some").touch()
    (tmp_path / "build" / "env-some" / environment.STAMP).write_text(environment.key("some"))
    assert environment.is_current("some")
    environment.pins("some").write_text("a==2\n")
    assert not environment.is_current("some")


def _first_line(log: Path) -> str:
    for _ in range(200):
        lines = log.read_text().splitlines()
        if lines:
            return lines[0]
        time.sleep(0.05)
    raise AssertionError("the process said nothing")


def _is_gone(pid: int) -> bool:
    for _ in range(100):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            if "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
                time.sleep(0.05)
                continue
        return True
    return False
