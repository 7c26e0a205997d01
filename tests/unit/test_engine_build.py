"""TensorRT takes the graph that is made for it and builds engines of it, as far as a machine without a GPU can show."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from rejection_server.graph.float16 import to_float16
from rejection_server.graph.ragged import Form, to_ragged
from rejection_server.host.engine import BUILD
from rejection_server.host.engine_build import EngineError, Order, build
from rejection_server.onnx_backend.token_ids import TokenIds
from support.bert_graph import PADDING, POSITIONS, WORDS, bert
from support.rtx import PACKAGE

LONGEST = POSITIONS - 2


def graph(form: Form = "tensorrt", *, float16: bool = True) -> ModelProto:
    model = bert(roberta=True)
    model = to_float16(model) if float16 else model
    return to_ragged(model, accepted=TokenIds(WORDS, LONGEST), form=form, pad_id=PADDING)


@pytest.fixture
def order(tmp_path: Path) -> Order:
    onnx.save(graph(), tmp_path / "model.onnx")
    return Order(
        model=str(tmp_path / "model.onnx"),
        plan=str(tmp_path / "model.plan"),
        longest=LONGEST,
        rows=64,
        capability="SM89",
        package=PACKAGE,
    )


def test_an_engine_is_built(order: Order) -> None:
    said: list[str] = []
    build(replace(order, capability="SM120"), said.append)
    assert Path(order.plan).stat().st_size > 100_000
    assert said[:2] == ["reading the graph", "choosing kernels, which takes minutes"]
    assert {path.name for path in Path(order.plan).parent.iterdir()} == {"model.onnx", "model.plan"}


def test_a_float32_engine_is_built_too(order: Order) -> None:
    onnx.save(graph(float16=False), order.model)
    build(order)
    assert Path(order.plan).exists()


def test_a_graph_that_is_not_for_tensorrt_is_refused_in_a_sentence(order: Order) -> None:
    """The padded form, whose shapes depend on data."""
    onnx.save(graph("padded"), order.model)
    with pytest.raises(EngineError, match=r"^TensorRT [0-9.]+ does not (take|build) the (graph|engine): .+$"):
        build(order)
    assert not Path(order.plan).exists()


def test_the_program_that_builds(order: Order) -> None:
    def run(ordered: Order) -> subprocess.CompletedProcess[str]:
        asked = [sys.executable, "-P", "-c", BUILD, json.dumps(asdict(ordered))]
        return subprocess.run(asked, capture_output=True, text=True, check=False)

    done = run(replace(order, capability="SM80"))
    assert (done.returncode, Path(order.plan).exists()) == (0, True), done.stderr
    assert done.stdout.startswith("reading the graph\n")
    missing = run(replace(order, model=f"{order.model}.missing"))
    assert missing.returncode == 1
    assert "does not take the graph" in missing.stderr.splitlines()[-1]
    absent = run(replace(order, package="no_such_package"))
    assert absent.stderr.splitlines()[-1] == "No module named 'no_such_package'"
