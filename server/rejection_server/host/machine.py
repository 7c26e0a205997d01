"""Whether a machine and its Python can run the Triton of the wheel.

Also a program that a Python without this package can run, before anything is installed: it prints `fit`, or what does
not fit, in a few words.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MINIMUM_GLIBC = (2, 35)
PYTHON_VERSIONS = ((3, 11), (3, 12), (3, 13))
CONTAINER_HINT = "use the container image of docker/Dockerfile instead"
ARM_HINT = "use NVIDIA's image instead, which there is for ARM, too (docker/Dockerfile.triton)"


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


def machine_problem(machine: Machine) -> str | None:
    """The first thing about the machine that does not fit the wheel, with what to do; None if it fits."""
    wanted = ".".join(map(str, MINIMUM_GLIBC))
    match = re.fullmatch(r"glibc (\d+)\.(\d+).*", machine.libc)
    if machine.system != "Linux" or machine.processor not in ("x86_64", "AMD64"):
        needs, has = "Linux on an x86-64 processor", f"this is {machine.system} on {machine.processor}"
    elif match is None:
        needs, has = f"the GNU C library {wanted} or newer", "this system uses another C library"
    elif (int(match[1]), int(match[2])) < MINIMUM_GLIBC:
        needs, has = f"the GNU C library {wanted} or newer", f"this system has {match[1]}.{match[2]}"
    else:
        return None
    hint = ARM_HINT if machine.processor in ("aarch64", "arm64") else CONTAINER_HINT
    return f"the embedded Triton needs {needs}, {has}: {hint}"


def python_problem(machine: Machine) -> str | None:
    """What about the interpreter does not fit the wheel; None if it fits."""
    if machine.implementation == "cpython" and not machine.free_threaded and machine.python in PYTHON_VERSIONS:
        return None
    versions = " or ".join(".".join(map(str, version)) for version in PYTHON_VERSIONS)
    kind = "free-threaded CPython" if machine.free_threaded else machine.implementation.replace("cpython", "CPython")
    return f"the embedded Triton needs CPython {versions}, this is {kind} {'.'.join(map(str, machine.python))}"


def find_libpython() -> Path | None:
    """Path of this interpreter's own shared library, None if it has none.

    A statically linked interpreter (Debian's) has none unless it is installed beside it (Debian's libpython3.X). What
    the interpreter itself is linked with counts first, wherever it lies, and what only the system's loader finds last.
    """
    configured: str = sysconfig.get_config_var("LIBDIR") or ""
    beside = (Path(configured) / _libpython(), Path(sys.base_prefix) / "lib" / _libpython())
    candidates = [*_mapped_libpython(), *beside]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        with contextlib.suppress(OSError):
            ctypes.CDLL(_libpython())
            found = next(_mapped_libpython(), None)
    return found


def _mapped_libpython() -> Iterator[Path]:
    """Where the library lies that this process has loaded, if it has."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            if line.endswith(f"/{_libpython()}"):
                yield Path(line[line.index("/") :])


def _libpython() -> str:
    return f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"


def lacks_libpython() -> bool:
    """Whether this interpreter needs a shared library of its own for Triton's Python backend, and has none.

    For 3.13 the wheel brings one along. It does for interpreters whose extension modules are files, not for one that
    has them built in (Debian's): there are no files of those.
    """
    takes_the_wheels = sys.version_info[:2] == (3, 13) and "_datetime" not in sys.builtin_module_names
    return not takes_the_wheels and find_libpython() is None


def missing_parts() -> str | None:
    """What of this interpreter is packaged separately and not there, in words for a person; None if all is."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    packages = [] if _has("venv") and _has("ensurepip") else [f"python{version}-venv"]
    if lacks_libpython():
        packages.append(f"libpython{version}")
    if not packages:
        return None
    return (
        f"{sys.executable} lacks a part that is packaged separately (on Debian and Ubuntu: apt-get install "
        f"{' '.join(packages)}; an interpreter built from source needs --enable-shared)"
    )


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


if __name__ == "__main__":
    sys.stdout.write((python_problem(Machine.current()) or missing_parts() or "fit") + "\n")
