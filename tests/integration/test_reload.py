"""Versions of a classifier are exchanged while callers go on: `rejection-server reload`, `rollback` and `versions`."""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from tritonclient.grpc import service_pb2

from rejection_server.graph.ragged import to_ragged
from rejection_server.host import ServeOptions, Server
from rejection_server.host.errors import ModelProcessError
from rejection_server.prepare import gate
from rejection_server.prepare.checksum import digest
from rejection_server.prepare.recorded import Recorded
from rejection_server.reload import exchange
from rejection_server.reload.cli import main
from support.kserve import Wire, arrays, request
from support.repository import REPOSITORY, bundled_tokenizer
from support.tiny_models import ACCEPTED, padded_classifier

CALLERS = 8
CORES = 1
"""Other than what the repository's own configuration is for."""
TEXT = "Where is the station?"
TEXTS = [TEXT, "Sorry, no.", "some words " * 20]


def add_version(folder: Path, number: int, seed: int, **facts: Any) -> Path:
    """A small random classifier in its version's folder, with what preparing writes beside it."""
    version = folder / str(number)
    version.mkdir(parents=True)
    model = to_ragged(padded_classifier(seed=seed), accepted=ACCEPTED, form="loop")
    onnx.save(model, version / "model.onnx")
    tokenizer = bundled_tokenizer()
    rows = [list(tokenizer.truncate(ids, 512)) for ids in tokenizer.token_ids(TEXTS)]
    feed = {
        "input_ids": np.concatenate([np.asarray(row, np.int64) for row in rows]),
        "sequence_lengths": np.asarray([[len(row)] for row in rows], np.int32),
    }
    logits = onnxruntime.InferenceSession(model.SerializeToString()).run(["logits"], feed)[0]
    Recorded(rows, logits).write(version)
    bundled = json.loads((REPOSITORY / "classifier" / "1" / "model.json").read_text())
    told = {
        "name": f"model of seed {seed}",
        "precision": "fp32",
        "sha256": digest(version / "model.onnx"),
        "gate": {"thresholds": asdict(gate.THRESHOLDS["fp32"])},
    }
    (version / "model.json").write_text(json.dumps({**bundled, **told, **facts}))
    return version


@dataclass(frozen=True)
class Served:
    """A server, and how to talk to it."""

    server: Server
    repository: Path
    events: list[Mapping[str, Any]]

    def __call__(self, *command: str) -> int:
        """Run a command of `rejection-server`; returns its exit status."""
        return main([*command, "--address", self.server.grpc_address])

    def answer(self, text: str = TEXT) -> tuple[str, bytes]:
        return answer(Wire(self.server.grpc_address), text)

    def loaded(self, model: str) -> list[str]:
        """Versions of a model that Triton has."""
        index = Wire(self.server.triton_address).stub.RepositoryIndex(
            service_pb2.RepositoryIndexRequest(ready=True), timeout=10, metadata=self.server.admin_metadata.items()
        )
        return [entry.version for entry in index.models if entry.name == model]

    def parameters(self) -> dict[str, str]:
        """Of the public model."""
        ask = service_pb2.ModelConfigRequest(name="rejection")
        config = Wire(self.server.grpc_address).stub.ModelConfig(ask, timeout=10).config
        return {name: parameter.string_value for name, parameter in config.parameters.items()}


def answer(wire: Wire, text: str) -> tuple[str, bytes]:
    """Version and logits of the answer to one text."""
    response = wire.stub.ModelInfer(request([text]), timeout=30)
    return response.model_version, arrays(response)["logits"].tobytes()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("versions")
    repository = folder / "repository"
    shutil.copytree(REPOSITORY, repository)
    shutil.rmtree(repository / "classifier" / "1")
    add_version(repository / "classifier", 1, seed=1)
    events: list[Mapping[str, Any]] = []
    options = ServeOptions(repository=repository, grpc_port=0, metrics_port=None, cores=CORES)
    with Server(options, on_event=events.append) as server:
        yield Served(server, repository, events)
        server.kill()


@dataclass
class Load:
    """Callers that never pause for long: each asks what all ask, and what nobody has asked before."""

    address: str
    answers: dict[int, list[tuple[float, str, str, bytes]]] = field(default_factory=dict)
    """Of each caller: when it had asked, what, and version and logits that it got."""
    failed: list[Exception] = field(default_factory=list)
    unready: int = 0

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CALLERS)]
        self._threads.append(threading.Thread(target=self._look))
        for thread in self._threads:
            thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *exception: object) -> None:
        time.sleep(0.5)
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, caller: int) -> None:
        wire, mine = Wire(self.address), self.answers.setdefault(caller, [])
        while not self._stop.wait(0.01):
            text = TEXT if len(mine) % 2 else f"{TEXT} {caller} {len(mine)}"
            begun = time.monotonic()
            try:
                mine.append((begun, text, *answer(wire, text)))
            except Exception as error:
                self.failed.append(error)

    def _look(self) -> None:
        stub = Wire(self.address).stub
        while not self._stop.wait(0.01):
            self.unready += not stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=10).ready


def test_versions_take_over_while_callers_go_on(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    version, old = served.answer()
    before, instances = served.parameters(), stub_names(served.server)
    add_version(served.repository / "classifier", 2, seed=2)
    with Load(served.server.grpc_address) as load:
        assert served("reload") == 0
        changed = time.monotonic()
        new_version, new = served.answer()
        during = served.parameters()
        assert served("rollback") == 0
        returned = time.monotonic()
    assert (version, new_version) == ("1", "2")
    assert old != new
    assert load.failed == []
    assert load.unready == 0
    for mine in load.answers.values():
        common = [(begun, version, logits) for begun, text, version, logits in mine if text == TEXT]
        assert {logits for _, _, logits in common} == {old, new}, "each is of one version or the other"
        turns = [logits for index, (_, _, logits) in enumerate(common) if not index or common[index - 1][2] != logits]
        assert turns == [old, new, old], "none goes back"
        assert {(v, logits) for begun, v, logits in common if begun > returned} == {("1", old)}
        assert ("2", new) in {(v, logits) for begun, v, logits in common if begun > changed}
    hits = Wire(served.server.triton_address).settled_statistics("scoring").inference_stats.cache_hit.count
    assert hits > CALLERS, "and yet what has been asked is remembered"
    told = ("model_version", "model_id", "model_sha256", "precision")
    newer = json.loads((served.repository / "classifier" / "2" / "model.json").read_text())
    assert [during[name] for name in told] == ["2", newer["name"], newer["sha256"], newer["precision"]]
    said = capsys.readouterr()
    assert said.out.splitlines() == ["version 2 of rejection answers", "version 1 of rejection answers again"]
    assert said.out.splitlines() == [e["message"] for e in served.events if e["event"] == "exchanged"]
    assert [line.partition("] ")[2] for line in said.err.splitlines() if "] ..." not in line] == [
        "loading version 2 of rejection; version 1 goes on answering",
        "comparing version 2 with the original's answers",
        "version 2 took over; unloading version 1",
        "loading version 1 of rejection; version 2 goes on answering",
        "comparing version 1 with the original's answers",
        "version 1 took over; unloading version 2",
    ]
    assert served.parameters() == before
    assert served.loaded("classifier") == served.loaded("rejection") == served.loaded("scoring") == ["1"]
    assert stub_names(served.server) == instances == ["classifier_0_0", "tokenizer_0_0"], "as many as there are cores"


def stubs(server: Server) -> dict[str, psutil.Process]:
    """The processes of model instances."""
    children = psutil.Process(server.pid).children()
    return {child.cmdline()[8]: child for child in children if "stub" in child.cmdline()[0]}


def stub_names(server: Server) -> list[str]:
    return sorted(stubs(server))


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "damaged": (
        lambda version: (version / "model.onnx").write_bytes(b"x"),
        "version 9 of rejection is damaged, .*9/model.onnx is not what was prepared: prepare it again",
    ),
    "not a model": (
        lambda version: spoil_model(version),
        "version 1 of rejection goes on answering: .*Protobuf parsing failed",
    ),
    "other answers": (
        lambda version: Recorded([[101, 7, 102]] * 4, np.array([[9.0, -9], [-9, 9]] * 2)).write(version),
        "version 1 of rejection goes on answering: version 9 does not answer like the original: .* the same label",
    ),
    "other labels": (lambda version: tell(version, labels=["NO", "YES"]), "has another labels than version 1, and a"),
    "missing": (shutil.rmtree, "version 9 of rejection is not in the repository, which has 1.*: add it with .*prepare"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_version_that_cannot_take_over_changes_nothing(
    served: Served, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    spoil, says = SPOILT[kind]
    before, parameters = served.answer(), served.parameters()
    version = add_version(served.repository / "classifier", 9, seed=3)
    spoil(version)
    try:
        assert served("reload", "--version", "9") == 1
    finally:
        shutil.rmtree(version, ignore_errors=True)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert re.fullmatch(f"rejection-server reload: .*{says}.*", line), line
    assert (served.answer(), served.parameters(), served.loaded("classifier")) == (before, parameters, ["1"])


def test_two_versions_that_do_not_fit_in_memory(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add_version(served.repository / "classifier", 9, seed=3)
    monkeypatch.setattr(exchange, "available_bytes", lambda: 1 << 20)
    assert served("reload") == 1
    shutil.rmtree(version)
    assert re.search(
        r"version 9 of rejection takes about \d\d+ MiB beside version 1, and 1 MiB are free", capsys.readouterr().err
    )


def test_what_is_there_already_is_not_exchanged(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (["reload", "--version", "1"], "version 1 of rejection is the one that answers"),
        (["reload", "--model", "toxicity"], "the server has no model toxicity with versions, it has rejection"),
    ):
        assert served(*arguments) == 1
        assert says in capsys.readouterr().err


def spoil_model(version: Path) -> None:
    (version / "model.onnx").write_bytes(b"no model")
    tell(version, sha256=digest(version / "model.onnx"))


def tell(version: Path, **facts: Any) -> None:
    told = json.loads((version / "model.json").read_text())
    (version / "model.json").write_text(json.dumps({**told, **facts}))


def test_who_has_no_key_changes_nothing(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "key"
    other.touch(mode=0o600)
    other.write_text("key-of-somebody-else")
    address = ["--address", served.server.grpc_address]
    for arguments, says in (
        ([*address, "--admin-key-file", str(other)], "the key is not the server's: serve has no --admin-key-file"),
        (["--address", "127.0.0.1:1"], "no server of this user is at 127.0.0.1:1, but at "),
    ):
        for command in ("reload", "rollback", "versions"):
            assert main([command, *arguments]) == 1
            assert says in capsys.readouterr().err
    assert served("versions") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["MODEL", "VERSION", "ANSWERS", "PRECISION", "SHA-256", "NAME"]
    assert lines[1].split()[:4] == ["rejection", "1", "yes", "fp32"]


def test_a_version_has_its_own_tokenizer(served: Served) -> None:
    tokenizer = served.repository / "tokenizer"
    made = tokenizer.with_name("made")
    shutil.copytree(tokenizer / "1", made)
    told = json.loads((made / "tokenizer.json").read_text())
    told["normalizer"]["lowercase"] = False
    (made / "tokenizer.json").write_text(json.dumps(told))
    made.rename(tokenizer / "5")
    add_version(served.repository / "classifier", 5, seed=1)
    text = "UNBELIEVABLENESS, in capitals."
    wire = Wire(served.server.grpc_address)
    before = wire.infer([text])
    with Load(served.server.grpc_address) as load:
        assert served("reload") == 0
        after = wire.infer([text])
    assert load.failed == []
    assert before["token_count"] != after["token_count"]
    assert served.loaded("tokenizer") == served.loaded("classifier") == ["5"]


def test_a_process_of_the_new_version_is_missed_when_it_dies(served: Served) -> None:
    """Comes last: it ends the server."""
    stubs(served.server)["classifier_0_0"].kill()
    assert served.server.wait(60) is not None
    assert isinstance(served.server.failure, ModelProcessError)
