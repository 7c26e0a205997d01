"""The shape of the published model, once: 82 million parameters, over the hub's protocol, within 3 GB of memory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.compose import mixed_texts
from bench.random_model import write_checkpoint
from rejection_server.prepare.isolated import isolated
from support.hub import Hub

pytest.importorskip("torch", reason="exporting a model needs PyTorch: scripts/install export")
NAME = "acme/distilroberta-tone"


def test_the_published_shape(tmp_path: Path) -> None:
    original = tmp_path / "original"
    isolated(write_checkpoint, original, mixed_texts(12))
    assert (original / "model.safetensors").stat().st_size > 320e6

    with Hub(original, NAME) as hub:
        hub.cut = "model.safetensors"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON", "OMP_"))}
        result = subprocess.run(
            [sys.executable, "-m", "rejection_server", "prepare", NAME, "--output", str(tmp_path / "served")],
            env={**kept, "HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url},
            capture_output=True,
            text=True,
            timeout=580,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    ranges = [asked for method, path, asked in hub.requests if method == "GET" and path.endswith("/model.safetensors")]
    assert len(ranges) == 2
    assert ranges[1] is not None
    assert int(ranges[1].removeprefix("bytes=").removesuffix("-")) > 100e6, "the rest of it, not all of it again"
    took = re.search(r"Took (\d+) s and at most ([\d.]+) GB of memory", result.stdout)
    assert took is not None
    assert int(took[1]) > 0
    assert float(took[2]) < 3
    assert (tmp_path / "served/classifier/1/model.onnx").stat().st_size < 90e6, "int8"
