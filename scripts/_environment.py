"""Make the Python environment of this checkout on first use, and bring it up to date when the pins changed.

    python _environment.py COMMAND VENV KIND ...

Nothing outside VENV is changed. Runs before anything is installed: only what Python itself brings is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
MACHINE = ROOT / "server" / "rejection_server" / "host" / "machine.py"
# What else decides what an environment holds: entry points and extras.
PROJECTS = (ROOT, ROOT / "client")
HOLDS_SERVE = ("test", "bench", "load", "prepare", "export")
"""Kinds that hold all of `serve`."""
TORCH = re.compile(r'"(torch==[^"]+)"')


def main(command: str, venv: Path, kinds: list[str]) -> int:
    """Return 0 once the environment holds all kinds; 1, with a sentence, if it cannot be made."""
    environment = Environment(command, venv)
    try:
        for kind in kinds:
            requirements(kind)
    except KeyError as exc:
        sys.stderr.write(f"scripts/{command}: {exc.args[0]}\n")
        return 1
    if all(environment.holds(kind) for kind in kinds):
        return 0
    try:
        with environment.locked():
            for kind in kinds:
                if not environment.holds(kind):
                    environment.install(kind)
    except OSError as exc:
        where = f" at {exc.filename}" if exc.filename else ""
        sys.stderr.write(
            f"scripts/{command}: the Python environment in {venv} cannot be made or brought up to date ({exc.strerror}"
            f"{where}): free the space, or set REJECTION_VENV and TMPDIR to folders that can be written to\n"
        )
        return 1
    return 0


class Environment:
    """The virtual environment at `venv`."""

    def __init__(self, command: str, venv: Path) -> None:
        self._command = command
        self._venv = venv
        self._python = venv / "bin" / "python"
        self._unfinished = venv / ".unfinished"

    def holds(self, kind: str) -> bool:
        """Whether it is whole, of the wanted version of Python, and holds what the pins say."""
        if self._unfinished.exists() or not os.access(self._python, os.X_OK) or self._is_of_another_python():
            return False
        stamps = [kind, *(HOLDS_SERVE if kind == "serve" else ())]
        return any(self._read(f".installed-{stamp}") == _key(stamp) for stamp in stamps)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One at a time; the lock file is one that is there anyway, so that nothing is left lying about."""
        with LOCK.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._say("waiting for another start that is installing")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def install(self, kind: str) -> None:
        """Make the environment if need be, and install the kind into it."""
        machine = runpy.run_path(str(MACHINE))
        problem = machine["machine_problem"](machine["Machine"].current())
        if problem:
            self._fail(problem)
        self._clear_if_unusable()
        if not self._venv.exists():
            self._say(
                f"first start: making a Python environment in {self._shown()} (Python {sys.version.split()[0]}) and "
                "installing into it: about 120 MB to fetch, 400 MB on disk"
            )
            self._make()
        else:
            self._say(f"bringing the Python environment in {self._shown()} up to date")
            self._check_owner()
            self._unfinished.touch()
        self._install_locked(kind)
        if kind in ("export", "train"):
            # pip chooses the build of PyTorch (its own settings may name one for CPUs only).
            self._pip(TORCH.search((ROOT / "pyproject.toml").read_text())[1])  # type: ignore[index]  # a test has it
        self._pip("--quiet", "--no-deps", "--no-build-isolation", *(f"--editable={project}" for project in PROJECTS))
        (self._venv / f".installed-{kind}").write_text(_key(kind))
        self._unfinished.unlink()

    def _clear_if_unusable(self) -> None:
        if not self._venv.exists():
            return
        if self._unfinished.exists() or not self._runs():
            why = "making the unfinished Python environment in {} again"
        elif self._is_of_another_python():
            why = f"making the Python environment in {{}} again, for Python {sys.version.split()[0]}"
        else:
            return
        self._check_owner()
        if not (self._venv / "pyvenv.cfg").is_file() and any(self._venv.iterdir()) and not self._unfinished.exists():
            self._fail(f"{self._venv} is no Python environment: set REJECTION_VENV to another folder, or remove it")
        self._say(why.format(self._shown()))
        shutil.rmtree(self._venv)

    def _check_owner(self) -> None:
        if self._venv.stat().st_uid != os.geteuid():
            self._fail(
                f"the Python environment in {self._shown()} belongs to another user and does not fit any more: "
                "let that user start once, or set REJECTION_VENV to a folder of your own"
            )

    def _make(self) -> None:
        try:
            self._venv.mkdir(parents=True)
            self._unfinished.touch()
        except OSError as exc:
            self._fail(f"{self._venv} cannot be made ({exc.strerror}): set REJECTION_VENV to a folder that can")
        base = getattr(sys, "_base_executable", None) or sys.executable
        if subprocess.run([base, "-m", "venv", self._venv], check=False).returncode:
            self._fail(f"could not make a Python environment with {base} in {self._venv}")

    def _install_locked(self, kind: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            wanted = Path(folder, f"{kind}.txt")
            wanted.write_text(requirements(kind), encoding="utf-8")
            self._pip("--no-deps", "--require-hashes", "--only-binary=:all:", f"--requirement={wanted}")

    def _pip(self, *arguments: str) -> None:
        pip: list[str | Path] = [
            self._python,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            *arguments,
        ]
        if subprocess.run(pip, stdout=sys.stderr, check=False).returncode:
            self._fail("installing failed, pip says above why: check the network, then start again")

    def _runs(self) -> bool:
        try:
            return subprocess.run([self._python, "-c", ""], capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    def _is_of_another_python(self) -> bool:
        """Whether a version of Python was asked for, with PYTHON, that the environment was not made with."""
        made = re.search(r"^version *= *(\d+\.\d+)", self._read("pyvenv.cfg"), re.MULTILINE)
        return bool(os.environ.get("PYTHON")) and (
            made is None or made[1] != f"{sys.version_info[0]}.{sys.version_info[1]}"
        )

    def _read(self, name: str) -> str:
        try:
            return (self._venv / name).read_text(encoding="utf-8")
        except OSError:
            return ""

    def _shown(self) -> str:
        return str(self._venv.relative_to(ROOT) if self._venv.is_relative_to(ROOT) else self._venv)

    def _say(self, words: str) -> None:
        sys.stderr.write(f"scripts/{self._command}: {words}\n")

    def _fail(self, words: str) -> NoReturn:
        self._say(words)
        raise SystemExit(1)


@functools.cache
def _locked() -> dict[str, list[str]]:
    """Lines of requirements.lock by the kind of environment that installs them."""
    parts: dict[str, list[str]] = {}
    kinds: list[str] = []
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            continue
        if line.startswith("# "):
            kinds = line[2:].split()
            continue
        for kind in kinds:
            parts.setdefault(kind, []).append(line)
    return parts


def requirements(kind: str) -> str:
    """The part of requirements.lock that a kind of environment installs; KeyError, naming all, for an unknown one."""
    parts = _locked()
    if kind not in parts:
        *known, last = sorted(parts)
        raise KeyError(f"requirements.lock knows no kind '{kind}': it knows {', '.join(known)} and {last}")
    return "\n".join(parts[kind]) + "\n"


def _key(kind: str) -> str:
    """What an up-to-date environment of a kind carries in its stamp: what it was made of, and where."""
    entry_points = [(project / "pyproject.toml").read_text(encoding="utf-8") for project in PROJECTS]
    return hashlib.sha256("\n".join([str(ROOT), requirements(kind), *entry_points]).encode()).hexdigest()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], Path(sys.argv[2]).absolute(), sys.argv[3:]))
    except KeyboardInterrupt:
        sys.stderr.write(f"scripts/{sys.argv[1]}: interrupted: the next start makes the Python environment again\n")
        sys.exit(130)
