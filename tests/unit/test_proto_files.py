"""Checks on proto/: lint, format, what would break callers, and stubs that are what the script makes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import proto_examples
from support.repository import ROOT

PROTO = ROOT / "proto"
BUF = Path(sys.executable).parent / "buf"


def buf(*arguments: str, folder: Path = PROTO) -> subprocess.CompletedProcess[str]:
    # No home: what someone set there is not to decide.
    environment = {**os.environ, "HOME": "/nowhere"}
    return subprocess.run([BUF, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The protocol files in a folder of their own, to be spoiled."""
    for name in ("buf.yaml", "inference.proto", "health.proto", "baseline.binpb"):
        shutil.copy(PROTO / name, tmp_path)
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_lint() -> None:
    result = buf("lint")
    assert result.returncode == 0, result.stdout + result.stderr


def test_lint_wants_a_comment_on_everything(copy: Path) -> None:
    change(copy / "inference.proto", "  // The id of the request.\n", "")
    result = buf("lint", folder=copy)
    assert result.returncode != 0
    assert 'Field "id" should have a non-empty comment' in result.stdout


def test_format() -> None:
    result = buf("format", "--diff", "--exit-code")
    assert result.returncode == 0, result.stdout + result.stderr


def test_nothing_breaks_callers() -> None:
    result = buf("breaking", "--against", "baseline.binpb")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("repeated bytes raw_output_contents = 6;", "repeated bytes raw_output_contents = 16;", "raw_output_contents"),
        ("repeated bytes raw_output_contents = 6;", "bytes raw_output_contents = 6;", "raw_output_contents"),
        ("int64 int64_param = 2;", "int32 int64_param = 2;", "int64_param"),
        ("rpc ServerLive(", "rpc ServerAlive(", "ServerLive"),
        ("returns (stream ModelStreamInferResponse)", "returns (ModelStreamInferResponse)", "ModelStreamInfer"),
        ("TYPE_STRING = 13;", "TYPE_STRING = 15;", 'enum value "13"'),
    ],
)
def test_what_would_break_callers_is_found(copy: Path, old: str, new: str, says: str) -> None:
    change(copy / "inference.proto", old, new)
    result = buf("breaking", "--against", "baseline.binpb", folder=copy)
    assert result.returncode != 0
    assert says in result.stdout


def test_stubs_are_what_the_script_makes(tmp_path: Path) -> None:
    environment = {**os.environ, "PROTO_PYTHON": sys.executable}
    subprocess.run([ROOT / "scripts" / "proto", tmp_path], env=environment, check=True, timeout=120)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in (PROTO / "python").glob("*_pb2*") if path.is_file()}
    assert made.keys() == kept.keys()
    for name, text in made.items():
        assert text == kept[name], f"{name} is not what scripts/proto makes: run it, and commit what it changed"


def test_stubs_can_be_imported() -> None:
    # In a process of its own: tritonclient, which other tests import, defines the same messages.
    script = """
import health_pb2, health_pb2_grpc, inference_pb2, inference_pb2_grpc
request = inference_pb2.ModelInferRequest(model_name="rejection", raw_input_contents=[b"a"])
assert inference_pb2.ModelInferRequest.FromString(request.SerializeToString()) == request
assert health_pb2.HealthCheckResponse.SERVING == 1
assert inference_pb2_grpc.GRPCInferenceServiceStub and health_pb2_grpc.HealthStub
"""
    environment = {"PYTHONPATH": str(PROTO / "python")}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)


def test_a_missing_toolchain_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(proto_examples, "is_there", lambda package: package not in ("ruby-grpc", "ruby-grpc-tools"))
    with pytest.raises(pytest.skip.Exception) as raised:
        proto_examples.build("ruby", tmp_path, Path(sys.executable))
    said = str(raised.value)
    assert said == "ruby: no ruby-grpc, ruby-grpc-tools here; scripts/install-toolchains ruby installs it"


def test_every_example_gives_its_commands() -> None:
    for language in proto_examples.LANGUAGES:
        readme = (PROTO / "examples" / language / "README.md").read_text()
        assert len(proto_examples.fenced(readme, "run")) == 1
        assert len(proto_examples.fenced(readme, "build")) == (language != "python")
