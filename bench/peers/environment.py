"""A virtual environment for each peer under `build/bench`, made on demand from the pins in the peer's folder."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import settings

PEERS = Path(__file__).parent
BUILD = settings.BUILD
STAMP = ".installed"


class InstallError(RuntimeError):
    """pip or venv failed; the message has its last lines."""


def python(name: str) -> Path:
    """Interpreter of the environment of the peer folder `name`."""
    return BUILD / f"env-{name}" / "bin" / "python"


def pins(name: str) -> Path:
    """The pinned requirements of the peer folder `name`."""
    return PEERS / name / "requirements.txt"


def is_current(name: str) -> bool:
    """Whether the environment was finished with today's pins and this Python version."""
    stamp = BUILD / f"env-{name}" / STAMP
    return python(name).exists() and stamp.exists() and stamp.read_text() == key(name)


def key(name: str) -> str:
    """What the stamp of a current environment says."""
    digest = hashlib.sha256(pins(name).read_bytes()).hexdigest()
    return f"{digest} python {sys.version_info[0]}.{sys.version_info[1]}\n"


def ensure(name: str, report: Callable[[str], None]) -> None:
    """Make the environment unless it is current.

    Raises:
        InstallError: venv or pip failed.
    """
    if is_current(name):
        return
    folder, log = BUILD / f"env-{name}", BUILD / "logs" / f"install-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    lines = pins(name).read_text().splitlines()
    report(f"{name}: installing {sum('==' in line for line in lines)} packages; {log} tells how far it is")
    _run([sys.executable, "-m", "venv", folder], log)
    pip: list[str | Path] = [python(name), "-m", "pip", "install", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "-r", pins(name)], log)
    if torch := torch_pin(lines):
        # pip chooses the build: builds for CPU and GPU share a version and differ in what they need.
        report(f"{name}: installing {torch} (large)")
        _run([*pip, torch], log)
    (folder / STAMP).write_text(key(name))
    report(f"{name}: installed")


def torch_pin(lines: Sequence[str]) -> str | None:
    """The PyTorch requirement that pins of a peer name in a comment, `# then: torch==VERSION`, or None."""
    return next((line.removeprefix("# then: ") for line in lines if line.startswith("# then: torch==")), None)


def own_environment() -> dict[str, str]:
    """This process's variables, without those that would bring its own packages into another environment."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}


def _run(command: Sequence[str | Path], log: Path) -> None:
    with log.open("a") as output:
        done = subprocess.run(command, stdout=output, stderr=output, env=own_environment(), check=False)
    if done.returncode:
        said = log.read_text(errors="replace").strip()[-2000:]
        raise InstallError(f"{' '.join(map(str, command[:4]))} ... failed; the log {log} ends:\n{said}")
