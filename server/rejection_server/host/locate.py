"""Find the Triton of the nvidia-pytriton wheel and check that this machine can run it.

The wheel is never imported: its metadata says where its files are, and they are used as they lie.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rejection_server.host.errors import TritonNotInstalledError, UnsupportedMachineError

__all__ = [
    "Machine",
    "TritonWheel",
    "check_machine",
    "find_libpython",
    "find_wheel",
    "loader_complaints",
    "needed_libpython",
]

WHEEL = "nvidia-pytriton"
MINIMUM_GLIBC = (2, 35)
PYTHON_VERSIONS = ((3, 11), (3, 12), (3, 13))
CONTAINER_HINT = "use the container image in docker/ instead"


@dataclass(frozen=True)
class Machine:
    """The facts about this machine and interpreter that decide whether the wheel can run."""

    system: str
    """Operating system as `platform.system()` names it."""
    processor: str
    """Processor architecture as `platform.machine()` names it."""
    libc: str
    """C library and version, such as "glibc 2.36"; empty if it is not the GNU one."""
    python: tuple[int, int]
    """Major and minor version of the interpreter."""
    implementation: str = "cpython"
    """Name of the interpreter as in `sys.implementation`."""
    free_threaded: bool = False
    """Whether the interpreter was built without the global lock."""

    @classmethod
    def current(cls) -> Machine:
        """Describe the machine and interpreter this runs on."""
        try:
            libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
        except (ValueError, OSError):
            libc = ""
        return cls(
            system=platform.system(),
            processor=platform.machine(),
            libc=libc,
            python=sys.version_info[:2],
            implementation=sys.implementation.name,
            free_threaded=bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        )


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
    if machine.system != "Linux" or machine.processor not in ("x86_64", "AMD64"):
        raise UnsupportedMachineError(
            f"the embedded Triton needs Linux on an x86-64 processor, this is {machine.system} on {machine.processor}: "
            f"{CONTAINER_HINT}"
        )
    wanted = ".".join(map(str, MINIMUM_GLIBC))
    match = re.fullmatch(r"glibc (\d+)\.(\d+).*", machine.libc)
    if match is None:
        raise UnsupportedMachineError(
            f"the embedded Triton needs the GNU C library {wanted} or newer, this system uses another C library: "
            f"{CONTAINER_HINT}"
        )
    if (int(match[1]), int(match[2])) < MINIMUM_GLIBC:
        raise UnsupportedMachineError(
            f"the embedded Triton needs the GNU C library {wanted} or newer, this system has {match[1]}.{match[2]}: "
            f"{CONTAINER_HINT}"
        )
    versions = " or ".join(".".join(map(str, version)) for version in PYTHON_VERSIONS)
    if machine.implementation != "cpython" or machine.free_threaded or machine.python not in PYTHON_VERSIONS:
        kind = (
            "free-threaded CPython" if machine.free_threaded else machine.implementation.replace("cpython", "CPython")
        )
        raise UnsupportedMachineError(
            f"the embedded Triton needs CPython {versions}, this is {kind} {'.'.join(map(str, machine.python))}: "
            "set PYTHON to the path of a fitting interpreter"
        )


def find_wheel(python: tuple[int, int] = sys.version_info[:2]) -> TritonWheel:
    """Locate the wheel's Triton and the Python backend's stub for this version of Python.

    Raises TritonNotInstalledError if the wheel or one of the files is missing.
    """
    try:
        distribution = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError as exc:
        raise TritonNotInstalledError(
            f"the Python package {WHEEL}, which holds Triton, is not installed in {sys.prefix}: "
            "start with scripts/serve, which installs it"
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
                "missing: remove .venv and start again with scripts/serve"
            )
    return wheel


def needed_libpython(stub: Path) -> str:
    """File name of the libpython that the stub is linked with.

    For most versions it is the usual one (libpython3.11.so.1.0); the wheel's stub for 3.13 asks for a renamed copy that
    the wheel brings along.
    """
    match = re.search(rb"libpython3[-.\w]*\.so[.\d]*", stub.read_bytes())
    if match is None:
        raise TritonNotInstalledError(f"{stub} is not a Python backend stub: it is not linked with libpython")
    return match[0].decode()


def find_libpython() -> Path | None:
    """Path of this interpreter's own shared library, None if it has none beside it.

    A statically linked interpreter (Debian's python3.11 without the package libpython3.11) has none; the system's
    loader may still know one.
    """
    name = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
    configured: str = sysconfig.get_config_var("LIBDIR") or ""
    candidates = (Path(configured) / name, Path(sys.base_prefix) / "lib" / name)
    return next((path for path in candidates if path.is_file()), None)


def loader_complaints(binary: Path, environment: Mapping[str, str]) -> list[str]:
    """What the system's dynamic loader misses to run `binary`: names of libraries, or of versions of them.

    The loader itself is asked (as `ldd` does); nothing of the binary runs.
    """
    # LD_WARN makes the loader report missing symbol versions, such as a libstdc++ that is too old.
    env = {**environment, "LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "yes", "LC_ALL": "C"}
    trace = subprocess.run([binary], env=env, capture_output=True, text=True, check=False, timeout=30)
    missing = re.findall(r"^\s*(\S+) => not found", trace.stdout, re.MULTILINE)
    versions = re.findall(r"version `([^']+)' not found", trace.stdout + trace.stderr)
    return list(dict.fromkeys(missing + versions))
