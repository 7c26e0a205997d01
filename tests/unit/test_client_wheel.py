"""The client installs alone: a wheel built from client/ works in an environment that has only its dependencies."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import rejection_client
from support.repository import ROOT

CLIENT = ROOT / "client"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """What a person's shell has, without this checkout on the import path."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    before = files()
    subprocess.run([*command, "--wheel-dir", folder, CLIENT], check=True, env=environment)
    assert files() == before, "building leaves the checkout as it was"
    (built,) = folder.glob("*.whl")
    return built


def files() -> set[Path]:
    """What client/ holds, but for the bytecode that any import writes."""
    return {path for path in CLIENT.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The `bin` folder of an empty environment with the wheel installed."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, wheel], check=True, env=environment)
    # The dependencies, from the environment of this test, behind the wheel.
    (packages,) = (home / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"rejection_client"}
    assert "rejection_client/py.typed" in names
    modules = {f"rejection_client/{path.name}" for path in (CLIENT / "rejection_client").glob("*.py")}
    assert modules <= set(names)


def test_the_installed_package_imports(binaries: Path, environment: dict[str, str]) -> None:
    code = "import rejection_client as r; print(r.__file__); print(r.RejectionClient().classify_many([]))"
    run = subprocess.run(
        [binaries / "python", "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=binaries
    )
    file, answer = run.stdout.splitlines()
    assert Path(file).is_relative_to(binaries.parent)
    assert answer == "[]"


def test_the_installed_command_runs(binaries: Path, environment: dict[str, str]) -> None:
    run = subprocess.run(
        [binaries / "rejection", "--help"], capture_output=True, text=True, check=True, env=environment
    )
    assert "rejection classify < answers.txt" in run.stdout
    run = subprocess.run(
        [binaries / "rejection", "--version"], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout == f"rejection-client {rejection_client.__version__}\n"
