"""Wheels of server and client do everything from an empty folder: prepare a model, serve it, classify.

They are installed, without the checkout, into an environment that sees of this one only what is not ours.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.repository import ROOT

TEXT = "Sorry, but I can't assist with that."


@dataclass(frozen=True)
class Installed:
    """The commands of both wheels, and an empty folder to call them in."""

    binaries: Path
    folder: Path

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command's end."""
        return subprocess.run(
            [self.binaries / command, *arguments],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )


def environment() -> dict[str, str]:
    """What a person's shell has."""
    ours = ("PYTHON", "REJECTION_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def git_status() -> str:
    command = ["git", "-C", str(ROOT), "status", "--porcelain", "--ignored"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("wheels")
    before = git_status()
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, f"--wheel-dir={folder}", ROOT, ROOT / "client"], check=True, env=environment())
    assert git_status() == before, "building leaves nothing in the checkout"
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        home / "bin" / "python",
        "install",
        "--quiet",
        "--no-deps",
    ]
    subprocess.run([*command, "--no-index", *wheels], check=True, env=environment())
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "rejection" not in entry.name and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    return Installed(home / "bin", tmp_path_factory.mktemp("empty"))


def test_the_wheels_hold_their_packages_and_nothing_else(wheels: list[Path]) -> None:
    client, server = (set(zipfile.ZipFile(wheel).namelist()) for wheel in wheels)
    assert {name.split("/")[0] for name in client if ".dist-info/" not in name} == {"rejection_client"}
    assert {name.split("/")[0] for name in server if ".dist-info/" not in name} == {"rejection_server"}
    assert "rejection_client/py.typed" in client
    # Triton wants a version folder of an ensemble, which a wheel holds only with a file in it.
    for name in (
        "classifier/1/model.onnx",
        "tokenizer/1/tokenizer.json",
        "rejection/1/.gitkeep",
        "rejection/labels.txt",
    ):
        assert f"rejection_server/model_repository/{name}" in server
    assert not [name for name in server if "__pycache__" in name]
    modules = (ROOT / "client" / "rejection_client").glob("*.py")
    assert {f"rejection_client/{module.name}" for module in modules} <= client


def test_versions(installed: Installed) -> None:
    import rejection_client
    import rejection_server

    assert installed.run("rejection-server", "--version").stdout == f"rejection-server {rejection_server.__version__}\n"
    assert installed.run("rejection", "--version").stdout == f"rejection-client {rejection_client.__version__}\n"


def test_the_client_imports_from_its_wheel_and_its_command_teaches(installed: Installed) -> None:
    code = "import rejection_client as r; print(r.__file__); print(r.RejectionClient().classify_many([]))"
    file, answer = installed.run("python", "-c", code).stdout.splitlines()
    assert Path(file).is_relative_to(installed.binaries.parent)
    assert answer == "[]"
    assert "rejection classify < answers.txt" in installed.run("rejection", "--help").stdout


@pytest.fixture(scope="module")
def prepared(installed: Installed) -> Path:
    """A repository made by the installed `rejection-server prepare`."""
    pytest.importorskip("torch", reason="exporting a model needs PyTorch: scripts/install export")
    from support import tiny_transformers

    tiny_transformers.make(installed.folder / "original", "bert", labels=("NORMAL", "REJECTION"))
    done = installed.run("rejection-server", "prepare", "original", "--output", "prepared", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    assert "Serve it:  rejection-server serve --repository prepared" in done.stdout
    return installed.folder / "prepared"


@pytest.fixture
def served(installed: Installed, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What `rejection-server serve` says of itself, while it serves."""
    command: list[str | Path] = [
        installed.binaries / "rejection-server",
        "serve",
        "--grpc-port",
        "0",
        "--metrics-port",
        "off",
    ]
    if request.param is not None:
        command += ["--repository", request.getfixturevalue(request.param)]
    process = subprocess.Popen(
        command, cwd=installed.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = []
    while "Ctrl-C" not in (line := process.stdout.readline()):
        assert line, process.communicate()[1]
        lines.append(line)
    yield {line.split()[0]: line.strip().partition(" ")[2].strip() for line in lines}
    process.terminate()
    process.communicate(timeout=60)


@pytest.mark.parametrize("served", [None, "prepared"], indirect=True, ids=["bundled", "prepared"])
def test_served_and_classified_from_an_empty_folder(installed: Installed, served: dict[str, str]) -> None:
    assert served["Try"] == f'it:    rejection classify --url {served["gRPC"]} "{TEXT}"'
    done = installed.run("rejection", "classify", "--url", served["gRPC"], "--output", "jsonl", TEXT)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["label"] in ("NORMAL", "REJECTION")
    assert answer["text"] == TEXT
