"""The client installs alone: a wheel built from client/ works in an environment that has only its dependencies."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "client"


@pytest.fixture(scope="module")
def environment():
    """What a person's shell has, without this checkout on the import path."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, environment):
    # Setuptools builds in the source folder; keep the checkout clean.
    source = tmp_path_factory.mktemp("client") / "client"
    shutil.copytree(CLIENT, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", source / "dist", source], check=True, env=environment)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def binaries(wheel, tmp_path_factory, environment):
    """The `bin` folder of an empty environment with the wheel installed."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, wheel], check=True, env=environment)
    # The dependencies, from the environment of this test, behind the wheel.
    (packages,) = (home / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def test_the_wheel_holds_the_package_and_nothing_else(wheel) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"rejection_client"}
    assert "rejection_client/py.typed" in names
    modules = {f"rejection_client/{path.name}" for path in (CLIENT / "rejection_client").glob("*.py")}
    assert modules <= set(names)


def test_the_installed_package_imports(binaries, environment) -> None:
    code = "import rejection_client as r; print(r.__file__); print(r.RejectionClient().classify_many([]))"
    run = subprocess.run(
        [binaries / "python", "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=binaries
    )
    file, answer = run.stdout.splitlines()
    assert Path(file).is_relative_to(binaries.parent)
    assert answer == "[]"


def test_the_installed_command_runs(binaries, environment) -> None:
    run = subprocess.run(
        [binaries / "rejection", "--help"], capture_output=True, text=True, check=True, env=environment
    )
    assert "rejection classify < answers.txt" in run.stdout
    run = subprocess.run(
        [binaries / "rejection", "--version"], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout == "rejection-client 0.1.0\n"
