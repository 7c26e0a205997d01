"""A Triton that is installed in a folder, as NVIDIA's image has it."""

import ctypes
import shutil
from pathlib import Path

import onnx
import onnxruntime
import pytest

from rejection_server.host import ServeOptions, Server
from rejection_server.host.errors import ModelLoadError, TritonNotInstalledError, UnsupportedMachineError
from rejection_server.host.locate import find_triton, find_wheel
from rejection_server.host.onnx_library import too_old, version
from support.installed_triton import install
from support.kserve import Wire
from support.repository import REPOSITORY

TEXTS = ["Sorry, but I can't assist with that.", "Boil the water first."]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = install(tmp_path / "tritonserver", "onnxruntime")
    monkeypatch.setenv("REJECTION_TRITON", str(folder))
    return folder


def test_it_serves_with_its_own_backends_and_the_same_guard(installed: Path, server: Server) -> None:
    try:
        ctypes.CDLL("libnghttp2.so.14")
    except OSError:
        pytest.skip("this system has no libnghttp2.so.14")
    options = ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=None, cores=1)
    with Server(options) as own:
        assert not (own.runtime_folder / "backends").exists()
        command = Path(f"/proc/{own.pid}/cmdline").read_text().split("\0")
        assert f"--backend-directory={installed}/backends" in command
        expected = Wire(server.grpc_address).infer(TEXTS)
        for name, array in Wire(own.grpc_address).infer(TEXTS).items():
            assert (array == expected[name]).all(), name


@pytest.mark.parametrize("part", ["bin/tritonserver", "backends/python/triton_python_backend_stub"])
def test_a_part_that_is_missing_is_named(installed: Path, part: str) -> None:
    (installed / part).unlink()
    with pytest.raises(TritonNotInstalledError, match=rf"has no {part}: use an image of NVIDIA's with"):
        find_triton()


def test_no_onnxruntime_backend_is_told(installed: Path) -> None:
    shutil.rmtree(installed / "backends" / "onnxruntime")
    with pytest.raises(TritonNotInstalledError, match="has no backends/onnxruntime: use an image"):
        find_triton()


def test_one_for_another_python_is_told(installed: Path) -> None:
    shutil.copy(find_wheel((3, 8)).stub, installed / "backends" / "python")
    with pytest.raises(UnsupportedMachineError, match=r"is made for libpython3\.8\.so\.1\.0, and this is Python 3\."):
        find_triton()


def test_a_graph_that_is_too_new_is_told_with_the_version(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    for library in (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"):
        (tmp_path / "onnxruntime" / "libonnxruntime.so").symlink_to(library)
    found = version(tmp_path)
    if found is None:
        pytest.skip("this onnxruntime brings no library for programs in C")
    assert found == onnxruntime.__version__
    assert version(tmp_path / "nowhere") is None

    model = onnx.load(REPOSITORY / "classifier" / "1" / "model.onnx")
    reasons = []
    for ir_version, opset in ((99, 18), (model.ir_version, 99)):
        model.ir_version, model.opset_import[0].version = ir_version, opset
        with pytest.raises(Exception, match=r"IR version|opset") as caught:
            onnxruntime.InferenceSession(model.SerializeToString())
        reasons.append(str(caught.value))
    for reason in reasons:
        told = too_old(ModelLoadError("classifier", reason), tmp_path)
        assert f"the graph needs a newer onnxruntime than this Triton's, {found}: use a newer image" in str(told), (
            reason
        )
        assert "newer" not in str(too_old(ModelLoadError("classifier", reason), None)), "the stand-in's is not older"
    other = ModelLoadError("classifier", "no such file")
    assert too_old(other, tmp_path) is other
