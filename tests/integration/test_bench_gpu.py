"""All of `scripts/bench gpu` on a processor, with a tiny model: every section runs, on the real Triton, too."""

import json
from pathlib import Path

import pytest

from bench.gpu.cli import main
from bench.gpu.plan import SECTIONS

pytest.importorskip("torch", reason="the checkpoint is made with PyTorch")


def test_every_section_gives_figures(tmp_path: Path) -> None:
    assert main(["--dry", "--scale", "4", "--output", str(tmp_path / "out"), "--work", str(tmp_path / "work")]) == 0
    entries = json.loads((tmp_path / "out" / "result.json").read_text())["entries"]
    kinds = {(entry["section"], entry["kind"]) for entry in entries}
    assert {section for section, kind in kinds if kind == "took"} == set(SECTIONS) - {"tei"}
    assert not {kind for _, kind in kinds} & {"failed", "cut"}
    assert {("gate", "compared"), ("onnxruntime", "rate"), ("torch", "rate"), ("served", "load")} <= kinds

    loads = [entry for entry in entries if entry["kind"] == "load"]
    assert {entry["door"] for entry in loads} == {"guard", "triton"}
    for entry in loads:
        assert entry["failed"] == 0
        assert entry["texts_per_s"] > 0
        assert min(entry["cpu_ms_per_text"][part] for part in ("tokenizer", "stand-in", "tritonserver")) > 0
    assert loads[1]["door"] == "guard"
    assert loads[1]["cpu_ms_per_text"]["guard"] > 0
    page = (tmp_path / "out" / "page.md").read_text()
    assert "A dry run on a processor" in page
    assert "**The limit**" in page
