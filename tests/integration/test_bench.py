"""The benchmark against the real server: what it writes down has the shape and the counts it claims. Never times."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import raw, scenarios
from bench.models import find_model, token_ids
from bench.progress import Progress
from bench.run import Run
from bench.settings import Settings

SETTINGS = Settings(
    models=("bundled",),
    precisions=("int8",),
    workloads=("mixed", "batch"),
    concurrency=(1, 2),
    offered=(0.5,),
    seconds=1.0,
    warm_s=0.3,
    rounds=1,
    quick=True,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bench")
    run = Run(SETTINGS, (), folder, ["--quick"])
    run.go(Progress())
    return json.loads((folder / "result.json").read_text())


def test_every_point_that_was_planned_is_there(written: Any) -> None:
    assert written["complete"]
    assert written["failures"] == []
    points = [(row["system"], row["workload"], row["loop"], row["concurrency"]) for row in written["points"]]
    assert [point for point in points if point[0] == "rejection-server"] == [
        ("rejection-server", "mixed", "closed", 1),
        ("rejection-server", "mixed", "closed", 2),
        ("rejection-server", "batch", "closed", 1),
        ("rejection-server", "mixed", "open", None),
    ]
    assert [point[2] for point in points if point[0] == "raw-onnxruntime"] == ["raw", "alone"]


def test_every_answer_under_load_is_that_of_the_model(written: Any) -> None:
    for row in written["points"]:
        assert row["failed"] == 0, row["error"]
        assert row["difference"]["texts"] > 0
        # Compared with the same graph and each text alone: to the last bit of what softmax is computed in.
        assert row["difference"]["max"] < 1e-6, row


def test_triton_s_statistics_are_those_of_the_window(written: Any) -> None:
    # On a slow machine a batch may take longer than the window.
    served = [row for row in written["points"] if row["system"] == "rejection-server" and row["requests"] > 4]
    assert len(served) >= 2
    for row in served:
        classifier, ensemble = row["triton"]["classifier"], row["triton"]["rejection"]
        texts = 32 if row["workload"] == "batch" else 1
        # A few requests straddle the window's ends.
        assert abs(ensemble["requests"] - row["requests"]) <= 4
        assert classifier["executions"] <= classifier["requests"] + 2
        assert max(map(int, classifier["batches"])) >= texts
        assert ensemble["total"] >= classifier["infer"] > 0


def test_cost_is_counted(written: Any) -> None:
    for row in written["points"]:
        if row["system"] == "rejection-server":
            assert row["cpu_ms_per_text"] > 0
            assert 50 < row["memory_mb"] < 2000
            assert row["generator_cpu_ms_per_request"] > 0


def test_the_load_generator_s_own_cost_is_stated(written: Any) -> None:
    own = written["generator"]
    assert own["failed"] == 0
    assert own["requests_per_s"] > 0
    assert own["cpu_ms_per_request"] > 0


def test_the_machine_and_the_command_are_named(written: Any) -> None:
    assert written["command"] == "scripts/bench --quick"
    assert written["hardware"]["cores"] >= 1
    assert written["versions"]["onnxruntime"]
    assert written["workloads"]["mixed"]["distilroberta_tokens"]["p50"] == pytest.approx(147, abs=8)


def test_scenarios_say_what_they_were_asked(tmp_path: Path) -> None:
    run = Run(
        replace(SETTINGS, scenarios=("repeats", "guard", "soak"), minutes=0.02),
        (),
        tmp_path,
        ["--scenarios", "repeats"],
    )
    scenarios.go(run, Progress())
    assert run.result["failures"] == []
    (repeats,), (soak,) = run.result["scenarios"]["repeats"], run.result["scenarios"]["soak"]
    # The first of the warm-up is computed, the rest are the cache's.
    assert repeats["executions"] == 0
    # By Triton's counts alone: they are read while requests go on, so the generator's are of another moment.
    assert repeats["cache_hits"] > 0
    assert abs(repeats["cache_hits"] - repeats["triton"]["scoring"]["requests"]) <= 1
    (guard,) = run.result["scenarios"]["guard"]
    assert {row["caller"] for row in guard["rows"]} == {"the guard", "Triton"}
    assert all(row["failed"] == 0 and row["texts_per_s"]["median"] > 0 for row in guard["rows"])
    assert soak["texts"] > 0
    assert soak["failed"] == 0


def test_a_checkpoint_is_made_into_every_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny_transformers = pytest.importorskip("support.tiny_transformers", reason="it needs PyTorch")
    monkeypatch.setattr("bench.models.BUILD", tmp_path)
    model = find_model(str(tiny_transformers.make(tmp_path / "tiny", "distilroberta")), lambda _: None)
    assert (model.name, model.max_length, model.labels) == ("tiny", 128, ("calm", "loud"))
    ids = token_ids(model, ("Sorry, but I can't assist with that.", "Boil the water first.", "Yes. " * 90))
    assert max(map(len, ids)) == 128
    wanted = raw.probabilities(model.reference, ids)
    for precision, most in (("float32", 1e-5), ("int8", 0.1)):
        for graph in (model.graphs[precision], model.served(precision)):
            assert np.abs(raw.probabilities(graph, ids) - wanted).max() < most, graph
    assert model.checkpoint is not None
    assert (model.checkpoint / "model.safetensors").is_file()
