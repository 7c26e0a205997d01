"""The parts of `scripts/bench gpu` that need no GPU: batches, arithmetic, results that outlive what fails, the page."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gpu import page, preflight
from bench.gpu.cli import main
from bench.gpu.plan import WORKLOADS, GpuSettings
from bench.gpu.results import Results, run
from bench.gpu.rows import batch, flat, flop, padded
from rejection_server.host.gpu import GpuError
from support import gpu_sections

FACTS = {"date": "today", "commit": "abc", "dry": False}


@pytest.mark.parametrize("workload", WORKLOADS)
def test_batches_end_with_a_whole_row(workload: str) -> None:
    rows = batch(workload, 8192, 1000)
    assert sum(map(len, rows[:-1])) < 8192 <= sum(map(len, rows))
    assert max(row.max() for row in rows) < 1000
    assert min(row.min() for row in rows) >= 5
    assert {"long": {512}, "short": {20}}.get(workload, set(map(len, rows))) == set(map(len, rows))
    assert max(map(len, rows)) <= 512


def test_mixed_rows_are_as_long_as_the_answers_of_chat_models() -> None:
    lengths = list(map(len, batch("mixed", 400 * 181, 1000)))
    # By PROFILE: 5% of 10.5, 20% of 43.5, 25% of 109.5, 25% of 196, 20% of 378.5 and 5% of 512.
    assert np.mean(lengths) == pytest.approx(186.9, abs=2)


def test_both_forms_hold_the_same_tokens() -> None:
    rows = batch("mixed", 2000, 1000)
    feed, (ids, mask) = flat(rows), padded(rows, 1)
    np.testing.assert_array_equal(ids[mask == 1], feed["input_ids"])
    np.testing.assert_array_equal(mask.sum(axis=1), feed["sequence_lengths"].ravel())
    assert (ids[mask == 0] == 1).all()


def test_arithmetic_is_that_of_the_products() -> None:
    hidden, inner, layers = 8, 12, 3
    shape = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    products = 0
    for length in (5, 2):
        for _ in range(layers):
            products += 4 * length * hidden * hidden  # query, key, value, output
            products += 2 * length * hidden * inner
            products += 2 * length * length * hidden  # scores, and the mean they weigh
    assert flop([np.zeros(length, np.int64) for length in (5, 2)], shape) == 2 * products


@pytest.mark.parametrize("name", ["fails", "dies", "hangs"])
def test_what_a_section_found_is_kept_and_the_next_one_runs(tmp_path: Path, name: str) -> None:
    results = Results(tmp_path / "result.json", FACTS)
    # So long that a process has started, though the machine is busy: only the one that hangs needs it all.
    settings = GpuSettings(scale=0.2)
    assert run("gate", getattr(gpu_sections, name), settings, results) == (name == "hangs")
    assert run("torch", gpu_sections.works, settings, results)
    kinds = [(entry["section"], entry["kind"]) for entry in results.entries]
    ending = ("gate", "cut" if name == "hangs" else "failed")
    assert kinds == [("gate", "rate"), ending, ("gate", "took"), ("torch", "rate"), ("torch", "took")]
    assert json.loads((tmp_path / "result.json").read_text())["entries"] == results.entries


def test_the_page_names_the_limit(tmp_path: Path) -> None:
    results = Results(tmp_path / "result.json", FACTS)
    load: dict[str, Any] = {"tokenizers": 6, "instances": 1, "batch": 1, "callers": 8, "rate": 0.0, "failed": 0}
    load["door"] = "triton"
    load |= {"cpu_ms_per_text": {"tokenizer": 0.4}, "limit": "tokenizer"}
    results.add("served", "load", {**load, "texts_per_s": 90.0, "busy": {"tokenizer": 0.97, "classifier": 0.5}})
    results.add("served", "load", {**load, "texts_per_s": 80.0, "busy": {"tokenizer": 0.5}})
    results.add("torch", "failed", {"why": "no kernel"})
    text = page.text(results)
    assert "90.0 texts/s with 6 tokenizer processes and 1 classifier instances" in text
    assert "the tokenizer (97%)" in text
    assert "- torch: failed: no kernel" in text


def test_there_is_no_such_section(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--sections", "gate,gates"])
    assert caught.value.code == 2
    assert "there is no section gates: choose from preflight, graphs, gate" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="a GPU may be here")
def test_without_a_gpu_a_sentence_says_so(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path), "--work", str(tmp_path / "work")]) == 1
    entries = json.loads((tmp_path / "result.json").read_text())["entries"]
    assert [entry["kind"] for entry in entries] == ["machine", "failed", "took"]
    assert "no GPU answers here" in entries[1]["why"]
    assert "install NVIDIA's driver" in entries[1]["why"]


def test_onnxruntime_without_cuda_is_refused() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(GpuError, match="is for processors alone: install onnxruntime-gpu"):
        preflight.runtime(dry=False)
    assert preflight.runtime(dry=True)["providers"] == "CPUExecutionProvider"
