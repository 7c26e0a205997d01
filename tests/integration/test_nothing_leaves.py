"""Nothing leaves the machine: no process of ours connects to another one, or writes where it was not told to."""

from pathlib import Path

import psutil
import pytest

from support.traced import Traced

TEXT = "Sorry, but I can't assist with that."


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    return Traced(tmp_path)


def test_serving_and_asking(tmp_path: Path) -> None:
    traced = Traced(tmp_path, files=True)
    serving = traced.popen("-m", "rejection_server", "serve", "--grpc-port", 0, "--metrics-port", 0)
    said = []
    assert serving.stdout is not None
    for line in serving.stdout:
        said.append(line)
        if "Ctrl-C" in line:
            break
    (address,) = [line.split()[1] for line in said if "gRPC" in line]
    answer = traced.run("-m", "rejection_client", "classify", "--url", address, TEXT)
    (launcher,) = psutil.Process(serving.pid).children()
    launcher.terminate()
    _, errors = serving.communicate(timeout=60)
    assert serving.returncode == 0, errors
    assert "REJECTION" in answer
    assert "127.0.0.1" in traced.addresses(), "what the client connected to was seen"
    assert traced.strangers() == set()
    assert list(traced.home.iterdir()) == []
    assert traced.files_outside() == set()


def test_preparing(traced: Traced, tmp_path: Path) -> None:
    from support import tiny_transformers  # needs PyTorch, or skips

    model = tiny_transformers.make(tmp_path / "model", "bert", labels=("a", "b"), settings={"initializer_range": 0.1})
    output = tmp_path / "prepared"
    traced.run("-m", "rejection_server", "prepare", model, "--output", output, "--precision", "fp32")
    assert (output / "classifier" / "1" / "model.onnx").is_file()
    assert traced.strangers() == set()
    assert list(traced.home.iterdir()) == []


@pytest.mark.parametrize("package", ["rejection_server", "bench", "training"])
def test_whatever_imports_onnxruntime_after_the_package(traced: Traced, package: str) -> None:
    traced.run("-c", f"import {package}, onnxruntime, time; time.sleep(1)")
    assert list(traced.home.iterdir()) == []
    assert traced.strangers() == set()


def test_the_load_tests(traced: Traced, tmp_path: Path) -> None:
    traced.run("-m", "load.cli", "--shape", "steady", "--rate", 4, "--duration", 3, "--output", tmp_path / "reports")
    assert traced.strangers() == set()
    assert {found.name for found in traced.home.glob("*/*")} <= {"matplotlib"}, "its list of this machine's fonts"
