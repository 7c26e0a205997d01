"""A virtual environment for each peer under `build/bench`, made on demand from the pins in the peer's folder."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PEERS = Path(__file__).resolve().parent
BUILD = PEERS.parents[1] / "build" / "bench"
STAMP = ".installed"
PROGRESS_EVERY_S = 5.0


class InstallError(RuntimeError):
    """pip or venv failed; the message has its last lines."""


def python(name: str) -> Path:
    """Interpreter of the environment of the peer folder `name`."""
    return _folder(name) / "bin" / "python"


def pins(name: str) -> Path:
    """The pinned requirements of the peer folder `name`."""
    return PEERS / name / "requirements.txt"


def is_current(name: str) -> bool:
    """Whether the environment was finished with today's pins and this Python version."""
    stamp = _folder(name) / STAMP
    return python(name).exists() and stamp.exists() and stamp.read_text() == _key(name)


def ensure(name: str, report: Callable[[str], None]) -> None:
    """Make the environment unless it is current.

    Raises:
        InstallError: venv or pip failed.
    """
    if is_current(name):
        return
    folder, log = _folder(name), BUILD / "logs" / f"install-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    report(f"{name}: making its Python environment in {folder.relative_to(PEERS.parents[1])}")
    _run([sys.executable, "-m", "venv", folder], log)
    pip = [python(name), "-m", "pip", "install", "--disable-pip-version-check"]
    lines = pins(name).read_text().splitlines()
    count = sum("==" in line for line in lines)
    report(f"{name}: installing {count} packages")
    _run([*pip, "--no-deps", "-r", pins(name)], log, _progress(name, count, report))
    torch = torch_pin(lines)
    if torch:
        # pip chooses the build: builds for CPU and GPU share a version and differ in what they need.
        report(f"{name}: installing {torch} (large)")
        _run([*pip, torch], log)
    (folder / STAMP).write_text(_key(name))
    report(f"{name}: installed")


def torch_pin(lines: Sequence[str]) -> str | None:
    """The PyTorch requirement that pins of a peer name in a comment, `# then: torch==VERSION`, or None."""
    found = [line.removeprefix("# then: ") for line in lines if line.startswith("# then: torch==")]
    return found[0] if found else None


def _folder(name: str) -> Path:
    return BUILD / f"env-{name}"


def _key(name: str) -> str:
    digest = hashlib.sha256(pins(name).read_bytes()).hexdigest()
    return f"{digest} python {sys.version_info[0]}.{sys.version_info[1]}\n"


def _run(command: Sequence[str | Path], log: Path, on_line: Callable[[str], None] = lambda line: None) -> None:
    # A PYTHONPATH of the caller's would shadow the environment's own packages.
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
    with (
        log.open("a") as output,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True, errors="replace"
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                output.write(line)
                on_line(line)
        except BaseException:
            process.terminate()  # the block's end waits for it
            raise
    if process.returncode:
        said = log.read_text(errors="replace").strip()[-2000:]
        raise InstallError(f"{' '.join(map(str, command[:4]))} ... failed; the log {log} ends:\n{said}")


def _progress(name: str, count: int, report: Callable[[str], None]) -> Callable[[str], None]:
    """A reader of pip's lines that reports, every few seconds, how many packages it has come to."""
    seen, last = 0, time.monotonic()

    def on_line(line: str) -> None:
        nonlocal seen, last
        # "Processing" is said of a package that lies in a folder that pip was told of.
        seen += line.startswith(("Collecting ", "Processing "))
        if line.startswith("Installing collected packages"):
            report(f"{name}: unpacking {count} packages")
        elif time.monotonic() - last >= PROGRESS_EVERY_S:
            last = time.monotonic()
            report(f"{name}: {min(seen, count)} of {count} packages fetched")

    return on_line
