"""The benchmark against the real server: what it writes down has the shape and the counts it claims. Never times."""

import json

import numpy as np
import pytest

from bench import raw
from bench.measure import prepare
from bench.models import bundled, session
from bench.plan import Settings, Workload
from bench.progress import Progress
from bench.run import Run

SETTINGS = Settings(
    models=("bundled",),
    precisions=("int8",),
    workloads=("mixed", "batch"),
    concurrency=(2,),
    offered=(0.5,),
    seconds=1.0,
    warm_s=0.3,
    rounds=1,
    quick=True,
    every_layout=False,
)


def quiet(_line) -> None:
    pass


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    run = Run(SETTINGS, (), folder, ["--quick"])
    run.go(Progress())
    return json.loads((folder / "result.json").read_text())


def test_every_point_that_was_planned_is_there(written) -> None:
    assert written["complete"]
    assert written["failures"] == []
    points = [(row["system"], row["workload"], row["loop"], row["concurrency"]) for row in written["points"]]
    assert [point for point in points if point[0] == "rejection-server"] == [
        ("rejection-server", "mixed", "closed", 2),
        ("rejection-server", "batch", "closed", 1),
        ("rejection-server", "mixed", "open", None),
    ]
    assert [point[2] for point in points if point[0] == "raw-onnxruntime"] == ["raw", "raw", "alone"]


def test_every_answer_under_load_is_that_of_the_model(written) -> None:
    for row in written["points"]:
        assert row["failed"] == 0, row["error"]
        if row["loop"] == "alone":
            continue  # onnxruntime again, for its time
        assert row["difference"]["texts"] > 0
        # int8 against its own weights in float32: only the rounding of activations is between them. onnxruntime's own
        # dynamic int8, which the padded graph is in, rounds weights again, and all activations of a text alike.
        padded = row.get("layout", "").startswith("padded")
        assert row["difference"]["max"] < (0.4 if padded else 0.05), row


def test_triton_s_statistics_are_those_of_the_window(written) -> None:
    served = [row for row in written["points"] if row["system"] == "rejection-server"]
    for row in served:
        classifier, ensemble = row["triton"]["classifier"], row["triton"]["rejection"]
        texts = 32 if row["workload"] == "batch" else 1
        # A few requests straddle the window's ends.
        assert abs(ensemble["requests"] - row["requests"]) <= 4
        assert classifier["executions"] <= classifier["requests"] + 2
        assert max(map(int, classifier["batches"])) >= texts
        assert ensemble["total"] >= classifier["infer"]


def test_cost_is_counted(written) -> None:
    for row in written["points"]:
        if row["system"] == "rejection-server":
            assert row["cpu_ms_per_text"] > 0
            assert 50 < row["memory_mb"] < 2000
            assert row["generator_cpu_ms_per_request"] > 0
    (overhead,) = written["overhead"]
    assert overhead["rejection_ms"] >= overhead["classifier_infer_ms"] > 0


def test_the_load_generator_s_own_cost_is_stated(written) -> None:
    own = written["generator"]
    assert own["failed"] == 0
    assert own["requests_per_s"] > 0
    assert own["cpu_ms_per_request"] > 0


def test_the_machine_and_the_command_are_named(written) -> None:
    assert written["command"] == "scripts/bench --quick"
    assert written["hardware"]["cores"] >= 1
    assert written["versions"]["onnxruntime"]
    assert written["workloads"]["mixed"]["distilroberta_tokens"]["p50"] == pytest.approx(147, abs=8)


def test_the_bundled_model_in_float32_has_the_committed_weights() -> None:
    model = bundled(quiet, checkpoint=False)
    texts = ("Sorry, but I can't assist with that.", "Boil the water first.", "Yes. " * 90)
    prepared = prepare(model, [Workload("these", texts)])
    served = session(model.repositories["int8"] / "classifier" / "1" / "model.onnx")
    floats = session(model.float32)
    for ids in prepared.ids["these"]:
        ours = raw.run_once(served, [ids], served=True)
        theirs = raw.run_once(floats, [ids], served=False)
        assert np.abs(ours - theirs).max() < 0.1
