"""The shape of the published model, once: 82 million parameters, over the hub's protocol, within 3 GB of memory."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.hub import Hub
from support.tiny_transformers import torch, transformers

ROOT = Path(__file__).parents[2]
SHAPE = Path(os.environ.get("DISTILROBERTA_SHAPE", ROOT.parent / "shared" / "reference" / "distilroberta"))
COMMAND = "import sys; from rejection_server.prepare.cli import main; sys.exit(main())"
NAME = "acme/distilroberta-tone"


@pytest.mark.skipif(
    not (SHAPE / "tokenizer.json").is_file(),
    reason="DISTILROBERTA_SHAPE names no folder with the published model's config.json and tokenizer.json",
)
def test_the_published_shape(tmp_path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(SHAPE / name, original / name)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(transformers.AutoConfig.from_pretrained(SHAPE))
    # Random weights alone answer nearly the same to every text, with every decision on the border.
    model.classifier.out_proj.weight.data *= 4
    model.classifier.out_proj.bias.data[:] = torch.tensor([0.3, -0.3])
    model.save_pretrained(original)
    assert (original / "model.safetensors").stat().st_size > 320e6
    del model

    with Hub(original, NAME) as hub:
        hub.cut = "model.safetensors"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON", "OMP_"))
        }
        environment |= {
            "PYTHONPATH": str(ROOT / "server"),
            "HF_HOME": str(tmp_path / "cache"),
            "HF_ENDPOINT": hub.url,
        }
        command = [sys.executable, "-c", COMMAND, NAME, "--output", str(tmp_path / "served")]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580, check=False)
    assert result.returncode == 0, result.stderr
    ranges = [asked for method, path, asked in hub.requests if method == "GET" and path.endswith("/model.safetensors")]
    assert len(ranges) == 2
    assert int(re.fullmatch(r"bytes=(\d+)-", ranges[1])[1]) > 100e6, "the rest of it, not all of it again"
    seconds, gigabytes = re.search(r"Took (\d+) s and at most ([\d.]+) GB of memory", result.stdout).groups()
    assert float(gigabytes) < 3
    assert int(seconds) > 0
    assert (tmp_path / "served/classifier/1/model.onnx").stat().st_size < 90e6, "int8"
