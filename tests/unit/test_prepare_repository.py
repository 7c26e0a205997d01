"""The repository's files, and that they are put in place whole or not at all."""

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig

from rejection_server.commands import command
from rejection_server.facts import numbered, version_folder
from rejection_server.graph.ragged import to_ragged
from rejection_server.names import Names, classifiers_in
from rejection_server.prepare import repository
from rejection_server.prepare.build import Plan, Precision, embedding_rows, session, write_graph
from rejection_server.prepare.configuration import Engine, Shape, configurations, newest_facts, rendered
from rejection_server.prepare.errors import (
    OutOfMemoryError,
    OutputError,
    PrepareError,
    UnexpectedError,
    UnsupportedError,
    VocabularyError,
)
from rejection_server.prepare.isolated import begun, isolated
from rejection_server.prepare.memory import PeakMemory
from rejection_server.prepare.options import Options
from rejection_server.prepare.pipeline import prepare
from rejection_server.prepare.weights import attach, detach
from support.repository import REPOSITORY, ROOT
from support.tiny_models import ACCEPTED, VOCABULARY, description, padded_classifier
from support.tree import fingerprint

SHAPE = Shape(("NORMAL", "REJECTION"), 512)
ONLY = Names()
TOXICITY = Names("toxicity")


@pytest.mark.parametrize(("name", "content"), rendered(newest_facts(REPOSITORY, ONLY), ONLY).items())
def test_bundled_files_are_what_the_script_makes(name: str, content: str) -> None:
    held = (REPOSITORY / name).read_text(encoding="utf-8")
    assert held == content, f"{name} is out of date: run scripts/render, and commit what it changed"


def test_the_bundled_model_is_told_by_its_own_digest() -> None:
    config = text_format.Parse((REPOSITORY / "rejection" / "config.pbtxt").read_text(), ModelConfig())
    told = {name: parameter.string_value for name, parameter in config.parameters.items()}
    graph = REPOSITORY / "classifier" / told["model_version"] / "model.onnx"
    assert told["model_sha256"] == hashlib.sha256(graph.read_bytes()).hexdigest(), "model.json's sha256 is stale"
    assert (told["function_to_apply"], told["problem_type"]) == ("softmax", "single_label_classification")
    assert told["positive_label"] in (REPOSITORY / "rejection" / "labels.txt").read_text().splitlines()


def test_rendering_mends_what_is_out_of_date_and_nothing_else(tmp_path: Path) -> None:
    render(str(staged(tmp_path / "made")))  # what the answers mean, which follows from model.json alone
    made = shutil.copytree(tmp_path / "made", tmp_path / "copy")
    (made / "classifier" / "labels.txt").write_text("NO\nYES\n")
    (made / "scoring" / "config.pbtxt").unlink()
    said = [render("--check", str(made)), render(str(made)), render("--check", str(made))]
    assert [(status, sorted(re.findall(r"^\w+/\S+", words, re.MULTILINE))) for status, words in said] == [
        (1, ["classifier/labels.txt", "scoring/config.pbtxt"]),
        (0, ["classifier/labels.txt", "scoring/config.pbtxt"]),
        (0, []),
    ]
    assert fingerprint(made) == fingerprint(tmp_path / "made")
    status, words = render(str(tmp_path))
    assert status == 1
    assert "holds no classifier/VERSION/model.json" in words


def render(*arguments: str) -> tuple[int, str]:
    """Status and words of scripts/render."""
    done = subprocess.run([ROOT / "scripts" / "render", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_other_shapes() -> None:
    config = configurations(Shape(("a", "b", "c"), 12, device="gpu"), TOXICITY)["toxicity_classifier/config.pbtxt"]
    assert "KIND_GPU" in config
    assert "KIND_CPU" not in config
    assert re.findall(r"batch_size: (\d+)", config) == ["64", "64", "1"], "the largest batch is met before any caller"
    assert re.findall(r"dims: \[ (-?\d+) \]", config) == ["-1", "3", "3", "12", "12"]


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_a_gpu_takes_floating_point_alone(tmp_path: Path, engine: Engine) -> None:
    options = Options(model="none", output=tmp_path / "out", device="gpu", engine=engine, precision="int8")
    with pytest.raises(PrepareError, match="a GPU is in fp16 or fp32: leave out --precision int8"):
        prepare(options)
    assert not (tmp_path / "out").exists()


def staged(
    folder: Path, shape: Shape = SHAPE, version: int = 1, content: bytes = b"graph", names: Names = ONLY
) -> Path:
    folder.parent.mkdir(exist_ok=True)
    (folder.parent / "g.onnx").write_bytes(content)
    (folder.parent / "tokenizer.json").write_text("{}")
    parts = repository.Parts(folder.parent / "g.onnx", folder.parent / "tokenizer.json", [[1, 2], [1, 3, 3, 2]])
    repository.assemble(folder, names, shape, parts, version=version)
    repository.write_facts(version_folder(folder, names, version), dataclasses.asdict(shape))
    return folder


def test_it_has_the_form_of_the_bundled_one(tmp_path: Path) -> None:
    assert set(fingerprint(staged(tmp_path / "made"))) == set(fingerprint(REPOSITORY))


def test_publishing_replaces_what_was_there_in_one_step(tmp_path: Path) -> None:
    output = tmp_path / "served"
    for content in (b"first", b"second"):
        with repository.workplace(output) as work:
            repository.publish(staged(work / "made", content=content), output)
        assert (output / "classifier/1/model.onnx").read_bytes() == content
        assert [path.name for path in tmp_path.iterdir()] == ["served"]


@contextlib.contextmanager
def watched(output: Path) -> Iterator[None]:
    """Look for a model of the repository all the time, and find it whenever it is looked for."""
    watch = "import os, sys\nwhile True:\n    os.stat(sys.argv[1])\n"
    with subprocess.Popen([sys.executable, "-c", watch, str(output / "classifier" / "1" / "model.onnx")]) as watcher:
        try:
            time.sleep(0.3)
            yield
            assert watcher.poll() is None
        finally:
            watcher.kill()


def test_no_reader_ever_misses_a_repository_that_is_being_replaced(tmp_path: Path) -> None:
    output = tmp_path / "served"
    repository.publish(staged(tmp_path / "first"), output)
    with watched(output):
        for turn in range(50):
            repository.publish(staged(tmp_path / f"next{turn}"), output)


@pytest.mark.parametrize("held", ["letter.txt", "classifier/config.pbtxt"])
def test_other_folders_are_not_overwritten(tmp_path: Path, held: str) -> None:
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).touch()
    with pytest.raises(OutputError, match="holds other things"):
        repository.check_output(tmp_path, ONLY)


def test_what_lies_beside_the_classifier_is_not_lost(tmp_path: Path) -> None:
    output = staged(tmp_path / "served")
    repository.check_output(output, ONLY)
    (output / "made-by-hand").mkdir()
    with pytest.raises(OutputError, match="holds made-by-hand, which would be lost"):
        repository.check_output(output, ONLY)


def test_the_bundled_repository_is_not_overwritten() -> None:
    with pytest.raises(OutputError, match="the bundled model repository"):
        repository.check_output(REPOSITORY, ONLY)


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another --output"), repository.workplace(tmp_path / "file" / "out"):
        pass


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (Shape(("NO", "YES"), 512), "the labels NORMAL, REJECTION, this one NO, YES"),
        (Shape(SHAPE.labels, 256), "model_max_length 512, this one 256"),
        (Shape(SHAPE.labels, 512, "sigmoid"), "activation softmax, this one sigmoid"),
        (Shape(SHAPE.labels, 512, device="gpu"), "the configuration for cpu, this one for gpu"),
    ],
)
def test_versions_that_cannot_stand_side_by_side(tmp_path: Path, shape: Shape, says: str) -> None:
    output = staged(tmp_path / "served")
    with pytest.raises(OutputError, match=says):
        repository.check_version(output, ONLY, shape, 2, tmp_path / "tokenizer.json")


def test_a_number_that_is_taken_is_told_before_a_model_is_looked_for(tmp_path: Path) -> None:
    output = staged(tmp_path / "served")
    with pytest.raises(OutputError, match="already has version 1"):
        prepare(Options(model=str(tmp_path / "nowhere"), output=output, version=1))


@pytest.mark.parametrize("adds", [True, False])
def test_a_version_of_what_is_not_there(tmp_path: Path, adds: bool) -> None:
    output = staged(tmp_path / "served") if adds else tmp_path / "none"
    options = Options(model=str(tmp_path / "nowhere"), output=output, version=2, name="toxicity", adds=adds)
    with pytest.raises(OutputError, match=r"there is no toxicity in .* that version 2 could be added to: leave out"):
        prepare(options)


def test_a_second_version(tmp_path: Path) -> None:
    output = staged(tmp_path / "served")
    before = fingerprint(output)
    repository.check_version(output, ONLY, SHAPE, 2, tmp_path / "tokenizer.json")
    repository.publish_version(staged(tmp_path / "made", version=2, content=b"newer"), output, ONLY, 2)
    after = fingerprint(output)
    assert {name for name in after if name not in before} == {"classifier/2/model.onnx", "classifier/2/model.json"}
    assert before.items() <= after.items()
    with pytest.raises(OutputError, match="already has version 2"):
        repository.check_version(output, ONLY, SHAPE, 2, tmp_path / "tokenizer.json")


def test_a_version_with_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    output = staged(tmp_path / "served")
    made = staged(tmp_path / "made", version=4)
    (tmp_path / "changed").mkdir()
    changed = tmp_path / "changed" / "tokenizer.json"
    changed.write_text('{"other": 1}')
    shutil.copy(changed, made / "tokenizer" / "1")
    repository.check_version(output, ONLY, SHAPE, 4, changed)
    repository.publish_version(made, output, ONLY, 4)
    assert (output / "tokenizer" / "4" / "tokenizer.json").read_text() == '{"other": 1}'
    assert [repository.tokenizer_version(output, ONLY, version) for version in (1, 2, 4, 5)] == [1, 1, 4, 4]
    newest = (output / "rejection" / "config.pbtxt").read_bytes()
    with pytest.raises(OutputError, match=r"version 3 has a tokenizer of its own and would come between.*: take 5"):
        repository.check_version(output, ONLY, SHAPE, 3, changed)
    older = staged(tmp_path / "older", version=3)
    (older / "rejection" / "config.pbtxt").write_text("of version 3")
    repository.check_version(output, ONLY, SHAPE, 3, older / "tokenizer" / "1" / "tokenizer.json")
    repository.publish_version(older, output, ONLY, 3)
    assert numbered(output / "tokenizer") == [1, 4], "it shares version 1's"
    assert (output / "rejection" / "config.pbtxt").read_bytes() == newest, "it tells of the newest version"


def test_one_classifier_joins_others_and_takes_nothing_from_them(tmp_path: Path) -> None:
    output = staged(tmp_path / "served")
    before = fingerprint(output)
    other = Shape(("mild", "toxic", "vile"), 128)
    repository.check_addition(output, TOXICITY, "cpu")
    with repository.workplace(output) as work:
        repository.publish_beside(staged(work / "made", other, content=b"toxicity", names=TOXICITY), output, TOXICITY)
    assert before.items() <= fingerprint(output).items()
    assert {path.name for path in output.iterdir()} == {*ONLY.models, *TOXICITY.models}
    assert classifiers_in(output) == (ONLY, TOXICITY)
    assert (output / "toxicity_classifier" / "1" / "model.onnx").read_bytes() == b"toxicity"
    assert (output / "toxicity" / "labels.txt").read_text().split() == ["mild", "toxic", "vile"]
    configs = {
        model: text_format.Parse((output / model / "config.pbtxt").read_text(), ModelConfig())
        for model in TOXICITY.models
    }
    assert [config.name for config in configs.values()] == list(TOXICITY.models), "Triton wants the folder's name"
    steps = {model: [step.model_name for step in configs[model].ensemble_scheduling.step] for model in TOXICITY.models}
    assert steps == {model: [] for model in TOXICITY.models} | {
        "toxicity": ["toxicity_scoring"],
        "toxicity_scoring": ["toxicity_tokenizer", "toxicity_classifier"],
    }
    with pytest.raises(OutputError, match="already has toxicity: choose another --name"):
        repository.check_addition(output, TOXICITY, "cpu")
    with pytest.raises(OutputError, match="holds toxicity, which would be lost: add rejection with --add-to"):
        repository.check_output(output, ONLY)
    repository.check_output(output, ONLY, replaces=False)


def test_whoever_comes_second_adds_to_what_the_first_has_made(tmp_path: Path) -> None:
    output = staged(tmp_path / "served")
    made = [staged(tmp_path / name / "made", names=Names(name)) for name in ("second", "third")]
    for folder in made:  # both were begun before either was added
        repository.publish_beside(folder, output, Names(folder.parent.name))
    assert [names.public for names in classifiers_in(output)] == ["rejection", "second", "third"]
    again = staged(tmp_path / "again" / "made", names=Names("second"))
    before = fingerprint(output)
    with pytest.raises(OutputError, match="already has second"):
        repository.publish_beside(again, output, Names("second"))
    assert fingerprint(output) == before


def test_no_reader_ever_misses_a_repository_that_is_added_to(tmp_path: Path) -> None:
    output = staged(tmp_path / "served")
    with watched(output):
        for turn in range(20):
            names = Names(f"more{turn}")
            repository.publish_beside(staged(tmp_path / names.public / "made", names=names), output, names)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda _: None, "is no prepared model repository: make one with --output, or correct --add-to"),
        (lambda folder: folder.mkdir(), "is no prepared model repository"),
        (lambda folder: staged(folder, Shape(SHAPE.labels, 512, device="gpu")), "is for gpu, as rejection in it is"),
        (lambda folder: shutil.copytree(REPOSITORY, folder, ignore=shutil.ignore_patterns("model.json")), "is no prep"),
    ],
)
def test_what_nothing_can_be_added_to(tmp_path: Path, make: Callable[[Path], Any], says: str) -> None:
    make(tmp_path / "served")
    with pytest.raises(OutputError, match=says):
        repository.check_addition(tmp_path / "served", TOXICITY, "cpu")


def test_nothing_is_added_to_the_bundled_repository() -> None:
    with pytest.raises(OutputError, match="stays as it is: add to a copy of it"):
        repository.check_addition(REPOSITORY, TOXICITY, "cpu")


def test_weights_come_back_wherever_they_have_gone() -> None:
    model = padded_classifier()
    whole = to_ragged(model, accepted=ACCEPTED, form="loop")
    weights = detach(model)
    assert "words" in weights
    assert model.ByteSize() < 100_000
    rewritten = to_ragged(model, accepted=ACCEPTED, form="loop")
    attach(rewritten, weights)
    assert not weights
    assert rewritten == whole


def plan(precision: Precision = "fp32", largest_id: int = VOCABULARY - 1) -> Plan:
    return Plan(description(largest_id=largest_id, heads=1, hidden_size=32), precision)


def logits(path: Path) -> NDArray[Any]:
    feed = {"input_ids": np.arange(9), "sequence_lengths": np.array([[4], [5]], np.int32)}
    return np.asarray(onnxruntime.InferenceSession(str(path)).run(["logits"], feed)[0])


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.02), ("int8", 0.1)])
def test_precisions(tmp_path: Path, precision: Precision, tolerance: float) -> None:
    onnx.save(padded_classifier(), tmp_path / "padded.onnx")
    write_graph(tmp_path / "padded.onnx", tmp_path / "fp32.onnx", plan())
    write_graph(tmp_path / "padded.onnx", tmp_path / "small.onnx", plan(precision=precision))
    whole, small = logits(tmp_path / "fp32.onnx"), logits(tmp_path / "small.onnx")
    np.testing.assert_allclose(small, whole, atol=tolerance)
    assert not np.array_equal(small, whole)
    assert (tmp_path / "small.onnx").stat().st_size < 0.6 * (tmp_path / "fp32.onnx").stat().st_size


def test_a_squeeze_without_axes_leaves_the_row_of_a_text_alone(tmp_path: Path) -> None:
    """As PyTorch exports `squeeze()`: mBART's decoder starts with such a one."""
    model = padded_classifier()
    onnx.save(model, tmp_path / "padded.onnx")
    write_graph(tmp_path / "padded.onnx", tmp_path / "plain.onnx", plan())
    place = next(place for place, node in enumerate(model.graph.node) if node.output[0] == "mean")
    model.graph.node[place].input[1] = "column"
    model.graph.node.insert(place, onnx.helper.make_node("Unsqueeze", ["bare", "axis1"], ["column"]))
    model.graph.node.insert(place, onnx.helper.make_node("Squeeze", ["count"], ["bare"]))
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("count", onnx.TensorProto.FLOAT, ["rows", 1]))
    onnx.save(model, tmp_path / "padded.onnx")
    write_graph(tmp_path / "padded.onnx", tmp_path / "squeezed.onnx", plan())
    np.testing.assert_allclose(logits(tmp_path / "squeezed.onnx"), logits(tmp_path / "plain.onnx"), atol=1e-6)


def test_graphs_that_do_not_fit(tmp_path: Path) -> None:
    onnx.save(padded_classifier(), tmp_path / "padded.onnx")
    with pytest.raises(VocabularyError, match=f"ids up to {VOCABULARY}"):
        write_graph(tmp_path / "padded.onnx", tmp_path / "served.onnx", plan(largest_id=VOCABULARY))
    model = padded_classifier()
    model.graph.output[0].name = "hidden"
    model.graph.output.append(onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, ["rows", 32]))
    onnx.save(model, tmp_path / "padded.onnx")
    with pytest.raises(UnsupportedError, match="cannot be served"):
        write_graph(tmp_path / "padded.onnx", tmp_path / "served.onnx", plan())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("operator", [None, "Upsample"])
def test_operators_of_no_known_opset(tmp_path: Path, precision: Precision, operator: str | None) -> None:
    model = padded_classifier()
    model.opset_import[0].version = 1  # what its operators are not
    if operator:  # and one that has no newer form
        model.opset_import[0].version = 8
        model.graph.node.append(onnx.helper.make_node(operator, ["words", "words"], ["more"], mode="linear"))
    onnx.save(model, tmp_path / "padded.onnx")
    with pytest.raises(
        UnsupportedError, match=r"of opset [18] and cannot be brought to opset \d+: export the model anew"
    ):
        write_graph(tmp_path / "padded.onnx", tmp_path / "served.onnx", plan(precision))


def test_a_graph_that_onnxruntime_does_not_take_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x09")
    with pytest.raises(UnsupportedError, match="onnxruntime does not take the graph: "):
        session(tmp_path / "model.onnx", "cpu")


def test_embedding_rows() -> None:
    assert embedding_rows(padded_classifier()) == VOCABULARY


def test_peak_memory_counts_processes_that_are_started() -> None:
    # What pytest itself holds comes and goes: a process that holds next to nothing starts the one that holds much.
    hungry = "import sys; x = bytearray(300 << 20); x[::4096] = bytes(len(x[::4096])); sys.stdin.read()"
    starts_it = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hungry!r}], check=True)"
    with subprocess.Popen([sys.executable, "-c", starts_it], stdin=subprocess.PIPE) as process:
        with PeakMemory(process.pid) as memory:
            deadline = time.monotonic() + 60
            while memory.peak_bytes < 300 << 20 and time.monotonic() < deadline:
                time.sleep(0.05)
        process.communicate()
    assert 300 << 20 <= memory.peak_bytes < 400 << 20


def test_steps_run_in_processes_of_their_own() -> None:
    assert isolated(os.getpid) != os.getpid()
    with pytest.raises(
        UnexpectedError, match=r"failed in 'divmod' \(ZeroDivisionError: .*please report it with what --v"
    ):
        isolated(divmod, 1, 0)
    with pytest.raises(OutOfMemoryError, match="'raise_signal' was killed, most likely because memory ran out"):
        isolated(signal.raise_signal, signal.SIGKILL)
    with pytest.raises(UnexpectedError, match=r"'raise_signal' \(its process ended by SIGSEGV\)"):
        isolated(signal.raise_signal, signal.SIGSEGV)
    with pytest.raises(OutOfMemoryError, match="memory ran out in 'bytes'"):
        isolated(bytes, 1 << 62)


def test_steps_beside_each_other_end_with_their_blocks() -> None:
    with begun(os.getpid) as one, begun(os.getpid) as other:
        assert one() != other()
    with begun(time.sleep, 600):
        assert [process.name for process in multiprocessing.active_children()] == ["sleep"]
    assert multiprocessing.active_children() == []


def test_help_needs_nothing_installed() -> None:
    # Without site-packages nothing is installed, this package neither: it is found from its folder.
    result = subprocess.run(
        [sys.executable, "-S", "-m", "rejection_server", "prepare", "--help"],
        cwd=ROOT / "server",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "--precision" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["m"],
        ["m", "--output", "o", "--version", "0"],
        ["m", "--outpt", "o"],
        ["m", "--output", "o", "--engine", "tensorrt", "--device", "cpu"],
    ],
)
def test_wrong_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from rejection_server.prepare.cli import main

    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert f"{command('prepare')}: error: " in capsys.readouterr().err


def test_what_a_person_types_to_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REJECTION_SCRIPTS", raising=False)
    assert command("reload") == "rejection-server reload"
    monkeypatch.setenv("REJECTION_SCRIPTS", "scripts")
    program, word = command("reload").split()
    assert Path(program).name == "rejection-server"
    assert Path(program).resolve().parent == Path(sys.prefix).resolve() / "bin"
    assert word == "reload"


def test_facts_are_json(tmp_path: Path) -> None:
    output = staged(tmp_path / "served")
    assert json.loads((output / "classifier/1/model.json").read_text())["activation"] == "softmax"
