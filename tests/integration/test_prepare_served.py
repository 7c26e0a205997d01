"""What is written, as served: labels, precisions, the gate's verdict, and a second version while requests flow."""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from rejection_server.graph.varlen import cpu_twin
from rejection_server.host import ServeOptions, Server
from rejection_server.prepare import build
from rejection_server.prepare.configuration import Engine
from rejection_server.prepare.errors import GateError, OutputError, PrepareError
from rejection_server.prepare.options import Options
from rejection_server.prepare.pipeline import prepare
from rejection_server.prepare.recorded import compare_again
from rejection_server.reload.cli import main as reload
from support import tiny_transformers
from support.kserve import Wire, request
from support.tree import fingerprint

LABELS = ("praise", "blame", "question", "thanks")
GENTLE = {"initializer_range": 0.1}  # int8 keeps up with such weights
MULTI_LABEL = {**GENTLE, "problem_type": "multi_label_classification"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def original(folder: Path) -> Path:
    return tiny_transformers.make(folder / "original", "roberta", labels=LABELS, settings=MULTI_LABEL)


@pytest.fixture(scope="module")
def repository(folder: Path, original: Path) -> Path:
    return prepare(Options(model=str(original), output=folder / "served", agreement=0.9)).output


def facts_of(repository: Path, version: int = 1, classifier: str = "classifier") -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((repository / classifier / str(version) / "model.json").read_text())
    return facts


def test_model_json_says_where_the_model_comes_from(repository: Path) -> None:
    facts = facts_of(repository)
    served = fingerprint(repository)
    assert facts["sha256"] == served["classifier/1/model.onnx"]
    assert set(facts["inputs_sha256"]) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert facts["precision"] == "int8", "auto, on a CPU"
    assert facts["labels"] == list(LABELS)
    assert facts["gate"]["figures"][-1]["texts"] >= 200
    assert not list(repository.rglob("__pycache__"))
    assert {path.name for path in repository.parent.iterdir()} == {"original", "served"}, "nothing temporary is left"


def test_a_second_version_takes_over_while_requests_flow(
    folder: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprint(repository)
    newer = tiny_transformers.make(folder / "newer", "roberta", labels=LABELS, settings=MULTI_LABEL, seed=9)
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_text("key-of-administration")
    with Server(ServeOptions(repository=repository, grpc_port=0, metrics_port=None, admin_key_file=key)) as server:
        wire = Wire(server.grpc_address)
        metadata = wire.stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="rejection"), timeout=10)
        assert [list(t.shape) for t in metadata.outputs] == [[-1, 4], [-1, 4], [-1, 1]]
        old = wire.infer(["Where is the station?"])
        np.testing.assert_allclose(old["probabilities"], 1 / (1 + np.exp(-old["logits"])), atol=1e-6)
        message = request(["Where is the station?"])
        message.outputs.add(name="probabilities").parameters["classification"].int64_param = 1
        assert wire.stub.ModelInfer(message, timeout=10).raw_output_contents[0].rpartition(b":")[2].decode() in LABELS

        prepare(Options(model=str(newer), output=repository, version=2, agreement=0.9))
        after = {name: digest for name, digest in fingerprint(repository).items() if "/2/" not in name}
        assert {name for name in after if after[name] != before.get(name)} == {"rejection/config.pbtxt"}
        assert (
            'key: "model_version" value: { string_value: "2" }' in (repository / "rejection/config.pbtxt").read_text()
        )

        stop, answers, failed = threading.Event(), [], []

        def ask() -> None:
            mine = Wire(server.grpc_address)
            while not stop.is_set():
                try:
                    answers.append(mine.infer(["Where is the station?"])["logits"][0])
                except Exception as error:
                    failed.append(error)
                time.sleep(0.002)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        load = service_pb2.RepositoryModelLoadRequest(model_name="classifier")
        with pytest.raises(grpc.RpcError, match="takes the key of administration"):
            wire.stub.RepositoryModelLoad(load, timeout=60)
        command = ["reload", "--address", server.grpc_address]
        assert reload(command) == 1
        assert "takes the key of administration: name its file with --admin-key-file" in capsys.readouterr().err
        assert reload([*command, "--admin-key-file", str(key)]) == 0
        assert "comparing version 2 with the original's answers" in capsys.readouterr().err
        time.sleep(0.5)
        stop.set()
        for thread in threads:
            thread.join()
        new = wire.infer(["Where is the station?"])["logits"][0]
        config = wire.stub.ModelConfig(service_pb2.ModelConfigRequest(name="rejection"), timeout=10).config
        assert config.parameters["model_version"].string_value == "2"
        assert config.parameters["model_sha256"].string_value == facts_of(repository, 2)["sha256"]
    assert not failed
    assert not np.array_equal(old["logits"][0], new)
    kinds = {tuple(answer) for answer in answers}
    assert kinds == {tuple(old["logits"][0]), tuple(new)}, "every request is answered by one version or the other"
    assert facts_of(repository, 2)["source"] == str(newer)

    with pytest.raises(OutputError, match="already has version 2"):
        prepare(Options(model=str(newer), output=repository, version=2))


def test_a_version_with_other_labels_is_refused(folder: Path, repository: Path) -> None:
    other = tiny_transformers.make(folder / "other", "roberta", labels=("yes", "no"))
    before = fingerprint(repository)
    with pytest.raises(OutputError, match="they have the labels praise, blame, question, thanks, this one yes, no"):
        prepare(Options(model=str(other), output=repository, version=3))
    assert fingerprint(repository) == before


def test_int8_that_is_not_good_enough_gives_way_to_a_loop_and_then_to_fp32(
    folder: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "PACKED_SLOWER", float("inf"))
    original = tiny_transformers.make(folder / "single", "distilbert", labels=("score",), settings=GENTLE)
    said: list[str] = []
    both = Path(shutil.copytree(repository, folder / "gives-way"))
    before = fingerprint(both)
    options = Options(model=str(original), output=both, name="single", adds=True, mean=1e-5)
    prepared = prepare(options, said.append)
    facts = facts_of(both, classifier="single_classifier")
    assert prepared.precision == facts["precision"] == "fp32"
    assert facts["form"] == "packed"
    assert before.items() <= fingerprint(both).items(), "it joined another, which is as it was"
    with pytest.raises(OutputError, match="already has single: choose another --name"):
        prepare(options)
    built = [line.split(";")[0] for line in said if line.startswith("built")]
    assert built == ["built the int8 graph (packed)", "built the int8 graph (loop)", "built the fp32 graph (packed)"]
    assert facts["activation"] == "sigmoid", "a single logit has nothing to be weighed against"
    packed, loop = [line for line in said if line.startswith("warning")]
    assert "packed int8 is not good enough here, taking loop" in packed
    assert "int8 is not good enough for this model, taking fp32" in loop
    assert "on average, at most 1e-05 is allowed" in packed
    assert (both / "single_classifier" / "labels.txt").read_text() == "score\n"


def test_a_model_beyond_the_thresholds_leaves_what_was_there(original: Path, repository: Path) -> None:
    before = fingerprint(repository)
    with pytest.raises(GateError, match="nothing was written: a probability differs by"):
        prepare(Options(model=str(original), output=repository, precision="fp32", largest=1e-12))
    assert fingerprint(repository) == before


@pytest.mark.parametrize(
    ("architecture", "form", "engine"),
    [
        ("bert", "varlen", "onnxruntime"),
        ("mpnet", "varlen", "onnxruntime"),
        ("modernbert", "padded", "onnxruntime"),
        ("deberta-v3", "tensorrt", "tensorrt"),
    ],
)
def test_for_a_gpu(folder: Path, architecture: str, form: str, engine: Engine) -> None:
    original = tiny_transformers.make(folder / f"for-gpu-{architecture}", architecture, settings=GENTLE)
    options = Options(model=str(original), output=folder / f"gpu-{architecture}", device="gpu", engine=engine)
    prepared = prepare(options)
    assert prepared.precision == "fp16"
    assert prepared.figures[-1].agreement_clear == 1
    assert 1e-7 < prepared.figures[-1].largest < 1e-2
    config = (prepared.output / "classifier" / "config.pbtxt").read_text()
    assert "KIND_GPU" in config
    assert ('platform: "tensorrt_plan"' in config) == ('target_name: "longest"' in config) == (engine == "tensorrt")
    facts = facts_of(prepared.output)
    whether = {"varlen": "used", "padded": "not used", "tensorrt": "not tried"}
    assert (facts["form"], facts["packed"].split(":")[0], facts["engine"]) == (form, whether[form], engine)

    version = prepared.output / "classifier" / "1"
    graph = onnx.load(version / "model.onnx")
    assert any(node.op_type == "PackedMultiHeadAttention" for node in graph.graph.node) == (form == "varlen")
    assert facts["sha256"] == hashlib.sha256((version / "model.onnx").read_bytes()).hexdigest()
    # As a machine with a GPU does, without the model or PyTorch.
    runner = onnxruntime.InferenceSession(cpu_twin(graph).SerializeToString())

    def answer(feed: Mapping[str, NDArray[Any]]) -> Any:
        longest = {"longest": np.zeros(feed["sequence_lengths"].max(), np.float32)}
        return runner.run(["probabilities"], {**feed, **(longest if engine == "tensorrt" else {})})[0]

    figures, missed = compare_again(version, answer)
    assert missed == []
    for again, before in zip(figures[-2:], prepared.figures[-2:], strict=True):
        assert (again.tokens, again.texts) == (before.tokens, before.texts)
        assert again.largest == pytest.approx(before.largest, rel=0.5)
    assert "differs by" in compare_again(version, lambda feed: 1 - answer(feed))[1][1]


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("bart", "fails on real texts .*Reshape.*"),  # texts of one batch must have as many end tokens each
        ("xlnet", "float32 does not answer like the original, so nothing was written: .*"),  # reads the last column
    ],
)
def test_models_for_one_text_at_a_time_are_refused_for_a_gpu(folder: Path, architecture: str, words: str) -> None:
    original = tiny_transformers.make(folder / architecture, architecture)
    with pytest.raises(PrepareError, match=f"{words}; on a GPU texts are filled up .* without --device gpu"):
        prepare(Options(model=str(original), output=folder / f"gpu-{architecture}", device="gpu"))
