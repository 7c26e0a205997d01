"""What `serve --device gpu` asks before Triton starts, as far as a machine without a GPU can show."""

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from rejection_server import MODEL_REPOSITORY
from rejection_server.host import gpu
from rejection_server.host.cuda import Gpu
from rejection_server.host.errors import HostError, OptionError, UnsupportedMachineError
from rejection_server.prepare import gate
from rejection_server.prepare.recorded import Recorded

GPUS = (Gpu(0, "NVIDIA T4", (7, 5)), Gpu(1, "NVIDIA L4", (8, 9)), Gpu(2, "NVIDIA L4", (8, 9)))
ROWS = [[101, 7592, 102], [101, 3374, 1010, 102]]
ON_A_GPU_MACHINE = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def version_of(repository: Path, *, device: str) -> Path:
    """The bundled classifier as one prepared for that device, which has answered ROWS."""
    version = repository / "classifier" / "1"
    version.mkdir(parents=True)
    bundled = MODEL_REPOSITORY / "classifier" / "1"
    facts = json.loads((bundled / "model.json").read_text())
    facts |= {"device": device, "gate": {"thresholds": asdict(gate.THRESHOLDS["fp16"])}}
    (version / "model.json").write_text(json.dumps(facts))
    (version / "model.onnx").symlink_to(bundled / "model.onnx")
    Recorded(ROWS, np.concatenate([answer(version, row) for row in ROWS])).write(version)
    return version


def answer(version: Path, row: list[int]) -> Any:
    runner = on_processor(version / "model.onnx")
    feed = {"input_ids": np.array(row, np.int64), "sequence_lengths": np.array([[len(row)]], np.int32)}
    return runner.run(["logits"], feed)[0]


def on_processor(model: Path, **_: int) -> Any:
    return onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])


def test_a_repository_is_served_on_what_it_was_prepared_for(tmp_path: Path) -> None:
    version_of(tmp_path / "gpu", device="gpu")
    with pytest.raises(OptionError, match=r"gpu was prepared for a GPU: add --device gpu$"):
        gpu.check_device(tmp_path / "gpu", "cpu")
    version_of(tmp_path / "cpu", device="cpu")
    with pytest.raises(OptionError, match=r"for processors: leave out --device gpu, or make one with .*prepare MODEL"):
        gpu.check_device(tmp_path / "cpu", "gpu")
    gpu.check_device(tmp_path / "cpu", "cpu")


def test_one_made_by_hand_may_be_for_either(tmp_path: Path) -> None:
    gpu.check_device(tmp_path, "cpu")


@pytest.mark.skipif(ON_A_GPU_MACHINE, reason="this onnxruntime has CUDA")
def test_no_start_falls_back_to_the_processor(tmp_path: Path) -> None:
    version_of(tmp_path, device="gpu")
    with pytest.raises(UnsupportedMachineError, match="is for processors alone: install onnxruntime-gpu in its place"):
        gpu.check_gpus(tmp_path, GPUS[:1])


def test_each_gpu_is_asked_and_the_first_that_answers_otherwise_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = version_of(tmp_path, device="gpu")
    asked = tmp_path / "asked"
    program = f"""
        import sys
        open({str(asked)!r}, "a").write(" ".join(sys.argv[1:]) + chr(10))
        print('{{"missed": ' + ('["agreement 0.5"]' if sys.argv[2] == BAD else "[]") + "}}")
    """
    monkeypatch.setattr(gpu, "TRY", textwrap.dedent(program).replace("BAD", "'none'"))
    gpu.check_gpus(tmp_path, GPUS)
    assert asked.read_text().splitlines() == [f"{version} 0", f"{version} 1", f"{version} 2"]
    monkeypatch.setattr(gpu, "TRY", textwrap.dedent(program).replace("BAD", "'1'"))
    with pytest.raises(HostError, match=r"^on GPU 1 \(NVIDIA L4\) rejection does not answer like the original"):
        gpu.check_gpus(tmp_path, GPUS)


def test_the_number_of_the_gpu_reaches_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = version_of(tmp_path, device="gpu")
    numbers: list[int] = []

    def session(model: Path, *, gpu: int) -> Any:
        numbers.append(gpu)
        return on_processor(model)

    monkeypatch.setattr(gpu, "cuda_session", session)
    assert [gpu.tried(version, number) for number in (0, 3)] == [{"missed": []}] * 2
    assert numbers == [0, 3]


@pytest.mark.parametrize("good", [True, False])
def test_answers_are_compared_with_the_originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: bool) -> None:
    version = version_of(tmp_path, device="gpu")
    if not good:
        recorded = Recorded.read(version)
        Recorded(recorded.rows, -recorded.logits).write(version)
    monkeypatch.setattr(gpu, "cuda_session", on_processor)
    missed = gpu.tried(version, 0)["missed"]
    assert bool(missed) is not good


def test_what_does_not_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = version_of(tmp_path, device="gpu")
    (version / "model.onnx").unlink()
    (version / "model.onnx").write_bytes(b"no model")
    monkeypatch.setattr(gpu, "cuda_session", on_processor)
    assert "does not run on this GPU" in gpu.tried(version, 0)["unusable"]


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ('print(\'{"unusable": "no GPU"}\')', UnsupportedMachineError, "no GPU"),
        ('print(\'{"missed": ["agreement 0.5"]}\')', HostError, "does not answer like the original (agreement 0.5)"),
        ("import os; os.kill(os.getpid(), 9)", UnsupportedMachineError, "ended with status -9 (it said nothing)"),
    ],
    ids=["unusable", "wrong", "killed"],
)
def test_each_outcome_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[HostError], words: str
) -> None:
    version_of(tmp_path, device="gpu")
    monkeypatch.setattr(gpu, "TRY", said)
    with pytest.raises(kind) as caught:
        gpu.check_gpus(tmp_path, GPUS[:1])
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
