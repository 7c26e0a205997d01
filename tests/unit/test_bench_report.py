"""A result becomes tables, plots and pages; the result is made up, small, and of the form that a run writes."""

import json
import re
from html.parser import HTMLParser

import pytest

from bench import table
from bench.summary import COLUMNS, comparison, limit, median, rows, warnings


def point(system, loop, number=1, **values):
    row = {
        "round": number,
        "model": "bundled",
        "precision": "int8",
        "system": system,
        "workload": "mixed",
        "loop": loop,
        "concurrency": None,
        "texts_per_s": 100.0,
        "latency_ms": {"p50": 10.0, "p99": 20.0},
        "failed": 0,
        "difference": {"texts": 4, "max": 0.01, "mean": 0.001},
        "memory_mb": 200.0,
        "cpu_ms_per_text": 9.0,
        "generator_cpu_ms_per_request": 0.3,
        "generator_busy": 0.1,
    }
    return {**row, **values}


@pytest.fixture
def result():
    return {
        "format": 1,
        "date": "2026-01-02T03:04:05+00:00",
        "command": "scripts/bench --quick",
        "commit": "abc123",
        "hardware": {
            "processor": "A <fast> one",
            "cores": 2,
            "flags": ["avx2"],
            "memory_gb": 8.0,
            "virtual": True,
            "system": "Linux 6.1",
            "idle_before": 0.99,
        },
        "versions": {"python": "3.11.2", "onnxruntime": "1.0"},
        "settings": {"seconds": 1.0, "warm_s": 0.5, "rounds": 2},
        "systems": {
            "raw-onnxruntime": {"title": "onnxruntime in process"},
            "rejection-server": {"title": "this server"},
            "peer-a": {"title": "Peer A", "notes": "two workers & a socket"},
        },
        "workloads": {
            "mixed": {"title": "mixed lengths", "texts": 4, "batch": 1, "distilroberta_tokens": {"p50": 147}},
            "batch": {"title": "requests of 32", "texts": 4, "batch": 32, "distilroberta_tokens": {"p50": 147}},
        },
        "models": {"bundled": {"labels": ["NORMAL", "REJECTION"], "max_length": 512}},
        "generator": {"requests_per_s": 2000.0, "cpu_ms_per_request": 0.4, "busy": 0.8, "failed": 0},
        "points": [
            point("raw-onnxruntime", "raw", layout="slow", concurrency=2, texts_per_s=50.0),
            point("raw-onnxruntime", "raw", layout="fast", concurrency=2, texts_per_s=200.0),
            point("raw-onnxruntime", "raw", 2, layout="fast", concurrency=2, texts_per_s=200.0),
            point("rejection-server", "closed", concurrency=8, texts_per_s=180.0),
            point("rejection-server", "closed", 2, concurrency=8, texts_per_s=200.0),
            point("rejection-server", "open", offered_share=0.8, offered_texts_per_s=152.0),
            point("rejection-server", "closed", workload="batch", concurrency=1, texts_per_s=150.0),
            point("peer-a", "closed", concurrency=8, failed=3),
        ],
        "overhead": [
            {"model": "bundled", "precision": "int8", "workload": "mixed", "overhead_ms": 1.5, "raw_ms": 5.0}
            | {key: 0.5 for _, key in table.OVERHEAD if key not in ("overhead_ms", "raw_ms")}
        ],
        "failures": [],
        "scenarios": {},
        "complete": True,
    }


def test_the_limit_is_the_fastest_layout(result) -> None:
    best = limit(rows(result), "bundled", "int8", "mixed")
    assert (best["layout"], best["rounds"], median(best, "texts_per_s")) == ("fast", 2, 200.0)
    assert limit(rows(result), "bundled", "int8", "batch")["layout"] == "fast"


def test_a_comparison_names_rates_and_their_share_of_the_limit(result) -> None:
    lines = [dict(zip(COLUMNS, line, strict=True)) for line in comparison(result, "bundled", "int8", "mixed")]
    assert [line["system"] for line in lines] == ["onnxruntime in process (fast)", "this server", "Peer A"]
    assert [line["of raw"] for line in lines] == ["1.00", "0.95", "0.50"]
    assert lines[1]["texts/s"] == "190.0 ±5%"
    assert lines[2]["texts/s"] == "100.0 (failures)"
    assert {line["largest diff"] for line in lines} == {"0.0100"}


def test_the_largest_difference_is_that_of_all_rounds(result) -> None:
    result["points"][4]["difference"] = {"texts": 4, "max": 0.5, "mean": 0.003}
    line = dict(zip(COLUMNS, comparison(result, "bundled", "int8", "mixed")[1], strict=True))
    assert (line["largest diff"], line["mean diff"]) == ("0.5000", "0.00200")


def test_warnings_say_what_spoils_the_figures(result) -> None:
    assert warnings(result) == ["requests failed at 1 points"]
    result["hardware"]["idle_before"] = 0.4
    result["complete"] = False
    result["points"][3]["generator_busy"] = 0.9
    result["failures"] = [{"system": "peer-a", "model": "m", "precision": "int8", "error": "died\nat length"}]
    text = "\n".join(warnings(result))
    for part in ("60% of its cores", "load generator", "peer-a with m, int8, failed: died", "stopped before its end"):
        assert part in text
    assert "at length" not in text


def test_text_for_a_terminal_is_aligned(result) -> None:
    text = table.text(result)
    heading = text.index("bundled, int8: mixed lengths")
    head, first = text[heading:].splitlines()[1:3]
    assert head.index("callers") + len("callers") == first.index(" 2 ") + 2


def test_markdown_keeps_cells_apart() -> None:
    assert table.markdown([["a", "b"], ["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


class Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open, self.tags, self.ids, self.references = [], [], [], []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src"):
                self.references.append(value)


def test_the_page_holds_all_it_shows(result) -> None:
    pytest.importorskip("matplotlib")
    from bench.plots import plots
    from bench.report import page

    drawn = plots(result)
    assert set(drawn) == {
        "concurrency-mixed-bundled-int8",
        "concurrency-batch-bundled-int8",
        "offered-bundled-int8",
        "time-of-a-request",
    }
    html = page(result, drawn)
    outline = Outline()
    outline.feed(html)
    assert outline.tags.count("svg") == 4
    assert all(reference.startswith("#") for reference in outline.references)
    assert len(set(outline.ids)) == len(outline.ids)
    assert {reference[1:] for reference in outline.references} <= set(outline.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(outline.ids)
    for text in ("A &lt;fast&gt; one", "two workers &amp; a socket", "scripts/bench --quick", "this server"):
        assert text in html


def test_a_page_without_figures_is_still_a_page(result) -> None:
    pytest.importorskip("matplotlib")
    from bench.plots import plots
    from bench.report import page

    result.update(points=[], overhead=[], complete=False)
    assert plots(result) == {}
    assert "stopped before its end" in page(result, {})


def test_the_documentation_is_made_of_results(result, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from bench.docs import write

    given = tmp_path / "result.json"
    given.write_text(json.dumps(result))
    page = tmp_path / "docs" / "benchmarks.md"
    preface = tmp_path / "docs" / "benchmarks" / "preface.md"
    preface.parent.mkdir(parents=True)
    preface.write_text("What it means.\n")
    for runs in (1, 2):
        written = write([given] * runs, page).read_text()
        assert written.count("`scripts/bench --quick`") == runs
        assert written.count("| this server | 8 | 190.0 ±5% | 0.95 |") == runs
        assert written.count("What it means.") == 1
        assert ("## Run 2" in written) == (runs == 2)
        pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", written)
        assert len(set(pictures)) == 4 * runs == len(list(preface.parent.glob("*.svg")))
        assert all((page.parent / picture).read_text().startswith("<svg") for picture in pictures)
