"""The GPU's tables in docs/benchmarks.md are those of the results beside it."""

import json
import shutil
from pathlib import Path

import pytest

from bench.docs import DocsError
from bench.gpu import docs
from bench.settings import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"


def test_the_page_is_as_written(tmp_path: Path) -> None:
    page = tmp_path / PAGE.name
    shutil.copy(PAGE, page)
    shutil.copytree(PAGE.with_suffix(""), page.with_suffix(""))
    docs.write([], page)
    assert page.read_text() == PAGE.read_text()
    for kept in PAGE.with_suffix("").glob("*.json"):
        assert (page.with_suffix("") / kept.name).read_text() == kept.read_text()


def test_figures_stand_where_they_belong() -> None:
    """Counted from the result by hand: a rate, and how many times as fast as the padded form."""
    (result,) = [json.loads(path.read_text()) for path in PAGE.with_suffix("").glob("gpu-1.json")]
    text = PAGE.read_text()
    rates = [entry for entry in result["entries"] if entry["kind"] == "rate"]
    alone = next(entry for entry in rates if entry["tokens"] == 32952 and entry["inputs"] == "on the GPU")
    assert f"| mixed | 32952 | 183 | {alone['tokens_per_s'] / 1000:,.0f} (" in text
    turns = [entry for entry in rates if entry.get("turn") == "padded-fp16" and entry["workload"] == "mixed"]
    served, padded = (entry["ms"] for entry in turns)
    assert f"| padded-fp16 | {padded / served:.2f} |" in text


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no place\n")
    with pytest.raises(DocsError, match="needs results, and a place for them"):
        docs.write([PAGE.with_suffix("") / "gpu-1.json"], page)
    assert page.read_text() == "no place\n"
