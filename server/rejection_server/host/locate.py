"""Find the Triton to run, and check that this machine can: that of the nvidia-pytriton wheel, or an installed one.

The wheel is never imported: its metadata says where its files are, and they are used as they lie. An installed Triton
is that of NVIDIA's image, which brings an onnxruntime backend of its own, in C++.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rejection_server.commands import installing
from rejection_server.host.errors import TritonNotInstalledError, UnsupportedMachineError
from rejection_server.host.machine import Machine, machine_problem, python_problem
from rejection_server.prepared_for import TRITON

__all__ = [
    "Triton",
    "check_machine",
    "find_triton",
    "find_wheel",
    "loader_complaints",
    "needed_libpython",
]

WHEEL = "nvidia-pytriton"
INSTALLED = Path("/opt/tritonserver")
"""Where NVIDIA's image has it."""
STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Triton:
    """Where the files of a Triton lie."""

    tritonserver: Path
    """The server binary."""
    python_backend: Path
    """Folder with the shared library and the Python module of Triton's Python backend."""
    stub: Path
    """The Python backend's process for this interpreter's version."""
    caches: Path
    """Folder of Triton's response caches."""
    libraries: Path
    """Shared libraries that it brings along."""
    backends: Path | None = None
    """Folder of an installed Triton's backends, an onnxruntime among them; None for the wheel, which has none."""


def check_machine(machine: Machine) -> None:
    """Raise UnsupportedMachineError, naming the first thing that does not fit."""
    problem = machine_problem(machine)
    if problem is not None:
        raise UnsupportedMachineError(problem)
    problem = python_problem(machine)
    if problem is not None:
        raise UnsupportedMachineError(f"{problem}: set PYTHON to the path of a fitting interpreter")


def find_triton() -> Triton:
    """The Triton that REJECTION_TRITON names the folder of, or the wheel's, or, without a wheel, NVIDIA's image's.

    Raises TritonNotInstalledError if there is none or a part is missing, UnsupportedMachineError if it does not fit
    this machine or interpreter.
    """
    if folder := os.environ.get(TRITON):
        return _find_installed(Path(folder))
    if (INSTALLED / "bin" / "tritonserver").exists() and not _has_wheel():
        return _find_installed(INSTALLED)
    check_machine(Machine.current())
    return find_wheel()


def _has_wheel() -> bool:
    try:
        importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _find_installed(folder: Path) -> Triton:
    python_backend = folder / "backends" / "python"
    triton = Triton(
        tritonserver=folder / "bin" / "tritonserver",
        python_backend=python_backend,
        stub=python_backend / STUB,
        caches=folder / "caches",
        libraries=folder / "lib",
        backends=folder / "backends",
    )
    for path in (triton.tritonserver, triton.stub, folder / "backends" / "onnxruntime"):
        if not path.exists():
            raise TritonNotInstalledError(
                f"the Triton in {folder} has no {path.relative_to(folder)}: use an image of NVIDIA's with the Python "
                "and the onnxruntime backend (its table of supported backends names them), or set REJECTION_TRITON to "
                "the folder of such a Triton"
            )
    wanted, own = needed_libpython(triton.stub), f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so"
    if not wanted.startswith(own):
        raise UnsupportedMachineError(
            f"the Python backend of the Triton in {folder} is made for {wanted}, and this is Python "
            f"{sys.version.split()[0]}: install rejection-server for that version of Python"
        )
    return triton


def find_wheel(python: tuple[int, int] = sys.version_info[:2]) -> Triton:
    """Locate the wheel's Triton and the Python backend's stub for this version of Python.

    Raises TritonNotInstalledError if the wheel or one of the files is missing.
    """
    try:
        distribution = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError as exc:
        raise TritonNotInstalledError(
            f"the Python package {WHEEL}, which holds Triton, is not installed in {sys.prefix}: "
            f"{installing('embedded')} installs it"
        ) from exc
    site_packages = Path(str(distribution.locate_file("")))
    triton = site_packages / "pytriton" / "tritonserver"
    version = ".".join(map(str, python))
    wheel = Triton(
        tritonserver=triton / "bin" / "tritonserver",
        python_backend=triton / "backends" / "python",
        stub=triton / "python_backend_stubs" / version / STUB,
        caches=triton / "caches",
        libraries=site_packages / "nvidia_pytriton.libs",
    )
    if not wheel.stub.exists() and wheel.tritonserver.exists():
        raise UnsupportedMachineError(f"{WHEEL} {distribution.version} has no Python backend for Python {version}")
    for path in (
        wheel.tritonserver,
        wheel.python_backend / "libtriton_python.so",
        site_packages / "nvidia_pytriton.libs",
    ):
        if not path.exists():
            raise TritonNotInstalledError(
                f"the installed package {WHEEL} {distribution.version} is incomplete, "
                f"{path.relative_to(site_packages)} is missing: remove the environment {sys.prefix}, and run "
                f"{installing('embedded')} for a new one"
            )
    return wheel


def needed_libpython(stub: Path) -> str:
    """File name of the libpython that the stub is linked with.

    For most versions it is the usual one (libpython3.11.so.1.0); the wheel's stub for 3.13 asks for a renamed copy that
    the wheel brings along (and still holds the usual name somewhere, so that the loader has to say which it means).
    """
    match = re.search(r"^\s*(libpython3\S*)", _loaded(stub, {}), re.MULTILINE)
    if match is None:
        raise TritonNotInstalledError(f"{stub} is not a Python backend stub: it is not linked with libpython")
    return match[1]


def loader_complaints(binary: Path, environment: Mapping[str, str]) -> list[str]:
    """What the system's dynamic loader misses to run `binary`: names of libraries, or of versions of them.

    The loader itself is asked (as `ldd` does); nothing of the binary runs.
    """
    trace = _loaded(binary, environment)
    missing = re.findall(r"^\s*(\S+) => not found", trace, re.MULTILINE)
    versions = re.findall(r"version `([^']+)' not found", trace)
    return list(dict.fromkeys(missing + versions))


def _loaded(binary: Path, environment: Mapping[str, str]) -> str:
    """What the loader says of the libraries that it would load."""
    # LD_WARN makes the loader report missing symbol versions, such as a libstdc++ that is too old.
    env = {**environment, "LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "yes", "LC_ALL": "C"}
    trace = subprocess.run([binary], env=env, capture_output=True, text=True, check=False, timeout=30)
    return trace.stdout + trace.stderr
