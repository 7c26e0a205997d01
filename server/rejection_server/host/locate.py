"""Find the Triton of the nvidia-pytriton wheel and check that this machine can run it.

The wheel is never imported: its metadata says where its files are, and they are used as they lie.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rejection_server.commands import installing
from rejection_server.host.errors import TritonNotInstalledError, UnsupportedMachineError
from rejection_server.host.machine import Machine, machine_problem, python_problem

__all__ = [
    "TritonWheel",
    "check_machine",
    "find_wheel",
    "loader_complaints",
    "needed_libpython",
]

WHEEL = "nvidia-pytriton"


@dataclass(frozen=True)
class TritonWheel:
    """Where the files of an installed wheel lie."""

    version: str
    """Version of the wheel, not of Triton."""
    tritonserver: Path
    """The server binary."""
    python_backend: Path
    """Folder with the shared library and the Python module of Triton's Python backend."""
    stub: Path
    """The Python backend's process for this interpreter's version."""
    libraries: Path
    """Shared libraries that the wheel brings along."""
    caches: Path
    """Folder of Triton's response caches."""
    site_packages: Path
    """Folder that the wheel is installed in."""


def check_machine(machine: Machine) -> None:
    """Raise UnsupportedMachineError, naming the first thing that does not fit."""
    problem = machine_problem(machine)
    if problem is not None:
        raise UnsupportedMachineError(problem)
    problem = python_problem(machine)
    if problem is not None:
        raise UnsupportedMachineError(f"{problem}: set PYTHON to the path of a fitting interpreter")


def find_wheel(python: tuple[int, int] = sys.version_info[:2]) -> TritonWheel:
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
    wheel = TritonWheel(
        version=distribution.version,
        tritonserver=triton / "bin" / "tritonserver",
        python_backend=triton / "backends" / "python",
        stub=triton / "python_backend_stubs" / version / "triton_python_backend_stub",
        libraries=site_packages / "nvidia_pytriton.libs",
        caches=triton / "caches",
        site_packages=site_packages,
    )
    if not wheel.stub.exists() and wheel.tritonserver.exists():
        raise UnsupportedMachineError(f"{WHEEL} {wheel.version} has no Python backend for Python {version}")
    for path in (wheel.tritonserver, wheel.python_backend / "libtriton_python.so", wheel.libraries):
        if not path.exists():
            raise TritonNotInstalledError(
                f"the installed package {WHEEL} {wheel.version} is incomplete, {path.relative_to(site_packages)} is "
                f"missing: remove the environment {sys.prefix}, and run {installing('embedded')} for a new one"
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
