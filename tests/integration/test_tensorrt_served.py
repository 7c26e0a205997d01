"""A repository for TensorRT, from the first start on; here without a GPU, a driver and TensorRT itself, for the wiring.

Triton's core is real: it reads the configuration, batches, and hands the file `model.plan` to the backend `tensorrt`.
In that one's place is the stand-in for onnxruntime, and the "engine" is the graph itself, put where a built one is
kept.
"""

import dataclasses
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest

from rejection_server import MODEL_REPOSITORY
from rejection_server.facts import version_folder
from rejection_server.graph.ragged import to_ragged
from rejection_server.host import ServeOptions, Server, engine, server
from rejection_server.host.cuda import Gpu, find_gpus
from rejection_server.host.errors import HostError, OptionError, UnsupportedMachineError
from rejection_server.names import Names
from rejection_server.onnx_backend.token_ids import TokenIds
from rejection_server.prepare import gate, repository
from rejection_server.prepare.configuration import Shape
from rejection_server.prepare.recorded import Recorded
from support.bert_graph import PADDING, POSITIONS, WORDS, bert
from support.installed_triton import install
from support.ragged_graphs import rows_of_ids, run, session

L4, T4 = Gpu(0, "NVIDIA L4", (8, 9)), Gpu(1, "Tesla T4", (7, 5))
LONGEST = POSITIONS - 2
ROWS = [rows_of_ids([length], WORDS)[0] for length in (1, 7, 60, LONGEST, 7, 33, 2, 9)] * 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as `prepare --engine tensorrt` writes it."""
    folder = tmp_path_factory.mktemp("made")
    graph = to_ragged(bert(), accepted=TokenIds(WORDS, LONGEST), form="tensorrt", pad_id=PADDING)
    onnx.save(graph, folder / "graph.onnx")
    shape = Shape(("a", "b", "c"), LONGEST, device="gpu", engine="tensorrt")
    tokenizer = MODEL_REPOSITORY / "tokenizer" / "1" / "tokenizer.json"
    parts = repository.Parts(folder / "graph.onnx", tokenizer, [[5, 6] * 8, [7] * LONGEST])
    names = Names()
    repository.assemble(folder / "served", names, shape, parts, version=1)
    version = version_folder(folder / "served", names, 1)
    facts = {**asdict(shape), "gate": {"thresholds": asdict(gate.THRESHOLDS["fp32"])}}
    repository.write_facts(version, facts)
    logits = run(session(graph), ROWS).astype(np.float64)
    Recorded([row.tolist() for row in ROWS], logits).write(version)
    return folder / "served"


@pytest.fixture
def options(made: Path, tmp_path: Path) -> ServeOptions:
    """What to serve: on processors, for KIND_GPU finds none here."""
    served = Path(shutil.copytree(made, tmp_path / "served"))
    config = served / "classifier" / "config.pbtxt"
    assert 'platform: "tensorrt_plan"' in config.read_text()
    config.write_text(config.read_text().replace("KIND_GPU", "KIND_CPU"))
    return ServeOptions(
        repository=served,
        device="gpu",
        grpc_port=0,
        metrics_port=None,
        cores=1,
        engine_cache=tmp_path / "engines",
    )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with a Triton that has the backend, TensorRT's package and a GPU; the folder of the package."""
    monkeypatch.setenv("REJECTION_TRITON", str(install(tmp_path / "tritonserver", "onnxruntime", "tensorrt")))
    package = tmp_path / "packages" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "11.4.0"\n')
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(server, "find_gpus", lambda: (L4,))
    return package


def keep(options: ServeOptions, version: str = "11.4.0") -> Path:
    """Put the graph where the engine built of it by that version is looked for."""
    order = engine.order_of(options.repository / "classifier" / "1")
    assert options.engine_cache is not None
    folder = options.engine_cache / engine.folder_name(L4, version, order)
    folder.mkdir(parents=True)
    shutil.copyfile(order.model, folder / engine.PLAN)
    return folder / engine.PLAN


@pytest.mark.usefixtures("machine")
def test_a_kept_engine_is_served_and_compared(options: ServeOptions) -> None:
    keep(options)
    said: list[str] = []
    with Server(options, on_step=said.append) as served:
        assert served.gpus == ("NVIDIA L4",)
        linked = served.runtime_folder / "engines-0" / "classifier" / "1" / engine.PLAN
        assert linked.resolve().is_relative_to(options.engine_cache or "")
    assert said == []
    version = options.repository / "classifier" / "1"
    assert not (version / engine.PLAN).exists(), "the repository stays as it is"
    recorded = Recorded.read(version)
    Recorded(recorded.rows, recorded.logits[:, ::-1]).write(version)
    with pytest.raises(HostError, match=r"does not answer like the original \(.*prepare it again with"):
        Server(options).start()


@pytest.mark.usefixtures("machine")
def test_another_version_builds_anew_and_says_what_it_does(options: ServeOptions) -> None:
    keep(options, "11.3.0")
    said: list[str] = []
    # The stand-in for the package builds nothing, so that is where this start ends.
    with pytest.raises(HostError, match=r"^the TensorRT engine for NVIDIA L4 cannot be built: .*") as caught:
        Server(options, on_step=said.append).start()
    assert "\n" not in str(caught.value)
    assert re.match(
        r"building the TensorRT 11\.4\.0 engine for NVIDIA L4, once; kept in .*nvidia-l4-8\.9-tensorrt-11\.4\.0-",
        said[0],
    )


def test_what_an_engine_depends_on_is_in_its_name(options: ServeOptions) -> None:
    order = engine.order_of(options.repository / "classifier" / "1")
    assert (order.longest, order.rows) == (LONGEST, 64)
    names = [
        engine.folder_name(L4, "11.4.0", order),
        engine.folder_name(T4, "11.4.0", order),
        engine.folder_name(dataclasses.replace(L4, name="NVIDIA L40"), "11.4.0", order),
        engine.folder_name(dataclasses.replace(L4, capability=(9, 0)), "11.4.0", order),
        engine.folder_name(L4, "11.5.0", order),
        engine.folder_name(L4, "11.4.0", dataclasses.replace(order, longest=8)),
    ]
    model = Path(order.model)
    model.write_bytes(model.read_bytes() + b"\0")
    names.append(engine.folder_name(L4, "11.4.0", order))
    assert len(set(names)) == len(names)


def test_unlike_gpus_take_engines_of_their_own(options: ServeOptions, tmp_path: Path) -> None:
    plans = {L4.capability: tmp_path / "l4", T4.capability: tmp_path / "t4"}
    linked = engine.linked_with_plans(
        options.repository, options.repository / "classifier" / "1", plans, tmp_path / "linked"
    )
    config = (linked / "classifier" / "config.pbtxt").read_text()
    assert sorted(re.findall(r'key: "(\d\.\d)"\s+value: "(\S+)"', config)) == [
        ("7.5", "model-7.5.plan"),
        ("8.9", "model-8.9.plan"),
    ]
    assert (linked / "classifier" / "1" / "model-7.5.plan").readlink() == tmp_path / "t4"
    assert {entry.name for entry in linked.iterdir()} == {entry.name for entry in options.repository.iterdir()}


@pytest.mark.parametrize("lacking", ["backend", "package", "driver"])
def test_what_is_missing_is_told_at_once(
    options: ServeOptions, machine: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    if lacking == "backend":
        monkeypatch.delenv("REJECTION_TRITON")
        words = "this Triton has no backend for it: serve it with NVIDIA's image"
    elif lacking == "package":
        shutil.rmtree(machine)
        words = "the Python package tensorrt, which builds the engine, is not installed in"
    else:
        monkeypatch.setattr(server, "find_gpus", lambda: find_gpus("libno-such-driver.so.1"))
        words = "this machine has no libcuda.so.1, the driver of NVIDIA's GPUs: install it, or give the container"
    with pytest.raises(UnsupportedMachineError, match=words) as caught:
        Server(options).start()
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("machine")
def test_models_that_come_and_go_are_refused(options: ServeOptions) -> None:
    with pytest.raises(OptionError, match="goes with neither --model-control-mode"):
        Server(dataclasses.replace(options, triton_arguments=("--model-control-mode=poll",))).start()
