"""Lay out the folder that Triton runs from: its backends, for this interpreter.

    rejection-server-XXXXXXXX/
    ├── alive                     locked as long as somebody looks after the folder
    ├── backends/python/          the wheel's Python backend and this Python version's stub
    ├── backends/onnxruntime/     model.py: the stand-in backend
    ├── served/                  the model repository that Triton is given (rejection_server.reload.repository)
    ├── control, control-key      where the exchange of a version is asked for (rejection_server.reload.control)
    ├── bin/python3, pyvenv.cfg   a virtual environment of this interpreter ...
    ├── lib/python3.X/            ... with this package and everything installed for this interpreter on its search path
    ├── lib/libpython3.X.so.1.0   this interpreter's own, under the name the stub asks for
    └── tmp/                      TMPDIR of Triton and its models

An installed Triton's backends are run where they lie, and there is no `backends` here. Triton refuses a backend library
that is a link out of the backend's folder, and a stub that is a copy finds no libraries by its built-in search path: so
files are copied and everything is found through LD_LIBRARY_PATH. The stub ignores PYTHONPATH (its interpreter is
isolated) and takes the virtual environment of the first `python3` on PATH for its own: so it is given one. The folder's
name is the prefix of every shared memory region of this Triton, which is how both are recognised after an unclean end.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import rejection_server
from rejection_server.host.errors import HostError, UnsupportedMachineError
from rejection_server.host.guardian import remove_leftovers
from rejection_server.host.locate import Triton, loader_complaints, needed_libpython
from rejection_server.host.machine import CONTAINER_HINT, find_libpython, lacks_libpython
from rejection_server.host.options import METRICS_SOCKET
from rejection_server.host.surroundings import check_surroundings, why_unusable

__all__ = ["PREFIX", "Layout", "candidate_folders", "lay_out", "remove_stale"]

PREFIX = "rejection-server-"
STALE_AFTER_S = 60.0
NEEDED_MIB = 8
"""Free space for the runtime folder: its files take 3 MiB, the rest is for what libraries keep in TMPDIR."""
LONGEST_FOLDER = 107 - len(f"/{PREFIX}12345678/{METRICS_SOCKET}")
"""Bytes that the name of a socket leaves for the folder above the runtime folder."""
ONNX_BACKEND = Path(rejection_server.__file__).with_name("onnx_backend") / "model.py"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """A folder ready for Triton to run from."""

    folder: Path
    """The runtime folder."""
    environment: Mapping[str, str]
    """Environment variables for Triton."""
    backends: Path
    """What `--backend-directory` names."""
    alive_fd: int
    """Descriptor of the locked file `alive`; the lock lasts until every holder closed it."""

    @property
    def shm_prefix(self) -> str:
        """Beginning of the name of every shared memory region of this Triton."""
        return f"{self.folder.name}-"


def lay_out(triton: Triton) -> Layout:
    """Make a fresh runtime folder and check that the system can load Triton from it.

    Raises UnsupportedMachineError if a shared library is missing, HostError if no folder can be used or the system
    lacks what Triton's processes share.
    """
    check_surroundings()
    parent = _usable_folder()
    remove_stale(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    alive_fd = os.open(folder / "alive", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(alive_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            stub = _fill(folder, triton)
        except OSError as exc:
            raise HostError(
                f"the folder {folder}, which Triton runs from, cannot be filled ({exc.strerror}): set TMPDIR to a "
                f"folder with {NEEDED_MIB} MiB free"
            ) from exc
        environment = _environment(folder, triton)
        _check_libraries(triton, stub, environment)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(alive_fd)
        raise
    backends = triton.backends or folder / "backends"
    return Layout(folder=folder, environment=environment, backends=backends, alive_fd=alive_fd)


def remove_stale(parent: Path) -> None:
    """Remove runtime folders, and their shared memory, that nobody looks after any more.

    They stay behind only if launcher, guardian and Triton were all killed at one stroke.
    """
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            # A young folder may belong to a start that has not locked it yet.
            if folder.stat().st_uid != os.getuid() or time.time() - folder.stat().st_mtime < STALE_AFTER_S:
                continue
            with (folder / "alive").open("r+") as alive:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _log.info("removing %s, left behind by a server that was killed", folder)
                remove_leftovers(f"{folder.name}-", folder)
        except OSError:  # locked, so in use; or vanished meanwhile
            continue


def _fill(folder: Path, triton: Triton) -> Path:
    """Copy and link the files in; returns the stub."""
    stub = triton.stub if triton.backends is not None else _copy_backends(folder / "backends", triton)
    (folder / "tmp").mkdir()
    (folder / "lib").mkdir()
    libpython = find_libpython()
    if libpython is not None:
        (folder / "lib" / needed_libpython(triton.stub)).symlink_to(libpython)

    _make_virtual_environment(folder)
    return stub


def _copy_backends(backends: Path, triton: Triton) -> Path:
    """Make the wheel's Python backend for this version of Python, and the stand-in; returns the stub."""
    python = backends / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copyfile(triton.python_backend / name, python / name)
    stub = python / triton.stub.name
    shutil.copyfile(triton.stub, stub)
    stub.chmod(0o700)

    (backends / "onnxruntime").mkdir()
    shutil.copyfile(ONNX_BACKEND, backends / "onnxruntime" / "model.py")
    return stub


def _make_virtual_environment(folder: Path) -> None:
    base = Path(sys.executable).resolve()
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(base)
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    site_packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site_packages.mkdir(parents=True)
    installed = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    # addsitedir also honours editable installs.
    lines = [f"import site; site.addsitedir({entry!r})" for entry in dict.fromkeys(installed)]
    lines.append("import rejection_server.host.numpy2 as numpy2; numpy2.repair()")
    # A __pycache__ beside a model's code would be a change by which Triton loads the model once more.
    lines.append("import sys; sys.dont_write_bytecode = True")
    (site_packages / "rejection_server.pth").write_text("\n".join(lines) + "\n")


def _environment(folder: Path, triton: Triton) -> dict[str, str]:
    """Triton's environment: ours, with the search paths for libraries and the interpreter set."""
    environment = dict(os.environ)
    # It would name the standard library of another interpreter.
    environment.pop("PYTHONHOME", None)

    def prepend(variable: str, *paths: Path) -> None:
        rest = [entry for entry in environment.get(variable, "").split(os.pathsep) if entry]
        environment[variable] = os.pathsep.join(dict.fromkeys([*map(str, paths), *rest]))

    prepend("LD_LIBRARY_PATH", folder / "lib", triton.libraries)
    prepend("PATH", folder / "bin")
    environment["TMPDIR"] = str(folder / "tmp")
    return environment


def _check_libraries(triton: Triton, stub: Path, environment: Mapping[str, str]) -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    missing = loader_complaints(stub, environment)
    if lacks_libpython() or any(name.startswith("libpython") for name in missing):
        raise UnsupportedMachineError(
            f"the Python at {sys.executable} has no shared library libpython{version}.so.1.0, which Triton's Python "
            f"backend needs: install it (on Debian and Ubuntu: apt-get install libpython{version}), or set PYTHON to "
            "an interpreter built with --enable-shared"
        )
    missing += loader_complaints(triton.tritonserver, environment)
    if missing:
        raise UnsupportedMachineError(
            f"Triton needs {', '.join(dict.fromkeys(missing))}, which this system lacks: install it with the "
            f"system's package manager (on Debian and Ubuntu: apt-get install libstdc++6 zlib1g), or {CONTAINER_HINT}"
        )


def candidate_folders() -> list[str]:
    """Where a runtime folder may be, those that are taken first in front."""
    try:
        first = tempfile.gettempdir()
    except FileNotFoundError:  # none at all, the current folder included
        first = os.environ.get("TMPDIR", "/tmp")  # noqa: S108
    candidates = [first, os.environ.get("XDG_RUNTIME_DIR"), "/var/tmp", sys.prefix]  # noqa: S108
    return list(dict.fromkeys(filter(None, candidates)))


def _usable_folder() -> Path:
    """The first folder for temporary files that has room and that programs may be started from."""
    reasons = []
    for candidate in candidate_folders():
        reason = why_unusable(candidate, NEEDED_MIB * 2**20)
        if reason is None and len(os.fsencode(candidate)) > LONGEST_FOLDER:
            reason = f"has a name longer than {LONGEST_FOLDER} bytes, with which no socket can be made in it"
        if reason is None:
            return Path(candidate)
        reasons.append(f"{candidate} {reason}")
    raise HostError(
        f"there is no folder for temporary files that Triton could run from ({', '.join(reasons)}): set TMPDIR to a "
        f"writable one with {NEEDED_MIB} MiB free, on a file system mounted without noexec"
    )
