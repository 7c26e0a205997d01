"""A Triton that is installed in a folder, as NVIDIA's image has it: the wheel's own files in that layout."""

import shutil
from pathlib import Path

import rejection_server
from rejection_server.host.locate import find_wheel

ONNX_BACKEND = Path(rejection_server.__file__).with_name("onnx_backend") / "model.py"


def install(folder: Path, *backends: str) -> Path:
    """Make one whose `backends`, beside python, are the stand-in for onnxruntime under their names."""
    wheel = find_wheel()
    python = folder / "backends" / "python"
    python.mkdir(parents=True)
    for file in (wheel.stub, *wheel.python_backend.iterdir()):
        if file.is_file():
            shutil.copy(file, python)
    for backend in backends:
        (folder / "backends" / backend).mkdir()
        shutil.copy(ONNX_BACKEND, folder / "backends" / backend)
    (folder / "bin").mkdir()
    (folder / "bin" / "tritonserver").symlink_to(wheel.tritonserver)
    (folder / "lib").symlink_to(wheel.libraries)
    (folder / "caches").symlink_to(wheel.caches)
    return folder
