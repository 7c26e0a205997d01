"""A result becomes tables, plots and pages; the result is made up, small, and of the form that a run writes."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench import docs, table
from bench.plots import plots
from bench.report import page
from bench.summary import limit, median, rows, warnings
from bench.table import COLUMNS, comparison

Result = dict[str, Any]
TRITON = {
    "rejection": {"total": 9.0, "infer": 0.0},
    "tokenizer": {"total": 2.0, "infer": 0.5},
    "classifier": {"total": 6.5, "infer": 6.0, "batches": {"1": 3}},
}


def point(system: str, loop: str, number: int = 1, **values: Any) -> Result:
    row: Result = {
        "round": number,
        "model": "bundled",
        "precision": "int8",
        "system": system,
        "workload": "mixed",
        "loop": loop,
        "concurrency": None,
        "texts_per_s": 100.0,
        "latency_ms": {"p50": 10.0, "p99": 20.0, "mean": 11.0},
        "failed": 0,
        "difference": {"texts": 4, "max": 0.01, "mean": 0.001},
        "memory_mb": 200.0,
        "cpu_ms_per_text": 9.0,
        "generator_cpu_ms_per_request": 0.3,
        "generator_busy": 0.1,
    }
    return {**row, **values}


@pytest.fixture
def result() -> Result:
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
        "generator": {"requests_per_s": 2000.0, "cpu_ms_per_request": 0.4, "busy": 0.8, "failed": 0},
        "points": [
            point("raw-onnxruntime", "raw", layout="slow", concurrency=2, texts_per_s=50.0),
            point("raw-onnxruntime", "raw", layout="fast", concurrency=2, texts_per_s=200.0),
            point("raw-onnxruntime", "raw", 2, layout="fast", concurrency=2, texts_per_s=200.0),
            point("rejection-server", "closed", concurrency=8, texts_per_s=180.0),
            point("rejection-server", "closed", 2, concurrency=8, texts_per_s=200.0),
            point("raw-onnxruntime", "alone", layout="one", concurrency=1, texts_per_s=120.0),
            point("rejection-server", "closed", concurrency=1, texts_per_s=90.0, triton=TRITON),
            point("rejection-server", "open", offered_share=0.8, offered_texts_per_s=152.0),
            point("rejection-server", "closed", workload="batch", concurrency=1, texts_per_s=150.0),
            point("peer-a", "closed", concurrency=8, failed=3),
        ],
        "failures": [],
        "scenarios": {},
        "complete": True,
    }


def test_the_limit_is_the_fastest_layout(result: Result) -> None:
    best = limit(rows(result), "bundled", "int8", "mixed")
    assert best is not None
    assert (best["layout"], best["rounds"], median(best, "texts_per_s")) == ("fast", 2, 200.0)
    assert (limit(rows(result), "bundled", "int8", "batch") or {})["layout"] == "fast"


def test_a_comparison_names_rates_and_their_share_of_the_limit(result: Result) -> None:
    lines = [dict(zip(COLUMNS, line, strict=True)) for line in comparison(result, "bundled", "int8", "mixed")]
    assert [line["system"] for line in lines] == [
        *("onnxruntime in process (fast)", "this server", "this server", "Peer A")
    ]
    assert [line["of raw"] for line in lines] == ["1.00", "0.95", "0.45", "0.50"]
    assert lines[1]["texts/s"] == "190.0 ±5%"
    assert lines[3]["texts/s"] == "100.0 (failures)"
    assert {line["largest diff"] for line in lines} == {"0.0100"}


def test_the_largest_difference_is_that_of_all_rounds(result: Result) -> None:
    result["points"][4]["difference"] = {"texts": 4, "max": 0.5, "mean": 0.003}
    line = dict(zip(COLUMNS, comparison(result, "bundled", "int8", "mixed")[1], strict=True))
    assert (line["largest diff"], line["mean diff"]) == ("0.5000", "0.00200")


def test_warnings_say_what_spoils_the_figures(result: Result) -> None:
    assert warnings(result) == ["requests failed at 1 points"]
    result["hardware"]["idle_before"] = 0.4
    result["complete"] = False
    result["points"][3]["generator_busy"] = 0.9
    result["failures"] = [{"system": "peer-a", "model": "m", "precision": "int8", "error": "died\nat length"}]
    text = "\n".join(warnings(result))
    for part in ("60% of its cores", "load generator", "peer-a with m, int8, failed: died", "stopped before its end"):
        assert part in text
    assert "at length" not in text


def test_a_single_request_s_time_is_told_apart(result: Result) -> None:
    ((*point, seen, network, ensemble, queue, tokenizing, hop, classifying, raw, overhead),) = table.singles(result)
    assert point == ["bundled", "int8", "mixed"]
    assert (seen, network, ensemble, queue, tokenizing) == (11.0, 2.0, 0.5, 1.5, 0.5)
    assert (hop, classifying, raw, overhead) == (0.5, 6.0, 11.0, 3.0)


def test_a_terminal_gets_every_table_and_warning(result: Result) -> None:
    text = table.text(result)
    assert text.index("bundled, int8: mixed lengths") < text.index("Single requests") < text.index("warning: requests")


SERVERS_CPU = "ms of the server's CPU"
SCENARIOS: dict[str, Any] = {
    "bursts": {"rows": [{"requests": 4, "latency_ms": {"p50": 13.5, "p99": 16.6}}]},
    "callers": {
        "rows": [
            {"caller": "C++", "workload": "short", "concurrency": 16, "texts_per_s": {"median": 756.0}, "failed": 0}
            | {"latency_ms": {"p50": {"median": 20.5}, "p99": {"median": 39.0}}, "caller_cpu_ms": {"median": 0.08}}
        ]
    },
    "guard": {
        "rows": [
            {"caller": "Triton", "workload": "short", "concurrency": 4, "texts_per_s": {"median": 310.0}, "failed": 0}
            | {"latency_ms": {"p50": {"median": 50.5}, "p99": {"median": 79.0}}, "cpu_ms_per_text": {"median": 6.1}}
        ]
    },
    "several": {
        "rows": [
            {"caller": caller, "workload": "short", "concurrency": 4, "texts_per_s": {"median": rate}, "failed": 0}
            | {"latency_ms": {"p50": {"median": 5.5}, "p99": {"median": 9.0}}, "cpu_ms_per_text": {"median": 6.1}}
            for caller, rate in (("one alone", 310.0), ("two in turns", 300.0))
        ]
    },
    "fairness": {
        "longest_alone_p50_ms": 71.4,
        "short_quiet": {"p50": 5.0, "p99": 11.0},
        "short_beside_long": {"p50": 40.0, "p99": 79.1},
        "short_p99_to_longest": 1.108,
    },
    "repeats": {"texts_per_s": 1690.0, "latency_ms": {"p50": 0.6}, "cache_hits": 6765, "executions": 0},
    "soak": {"seconds": 600.0, "concurrency": 32, "texts": 52528, "failed": 0, "memory_growth": 0.0089}
    | {"settled_s": 60.0, "memory_mb_by_s": [(5.0, 380.0), (10.0, 384.0)]},
    "growth": {
        "callers": [{"concurrency": 1, "texts_per_s": 39.3, "latency_ms": {"p50": 18.7}, "cpu_us_per_token": 135.4}],
        "lengths": [{"tokens": 16, "texts_per_s": 674.3, "latency_ms": {"p50": 11.7}, "cpu_us_per_token": 156.0}],
    },
}


def test_scenarios_are_a_row_a_case(result: Result) -> None:
    of = {"model": "bundled", "precision": "int8"}
    result.update(points=[], workloads={}, scenarios={name: [of | entry] for name, entry in SCENARIOS.items()})
    rows = [line[:1] + line[2:] for line in table.scenarios(result)]
    for row in (
        ["bursts", "4 short at once, the last", "", "13.50", "16.60", ""],
        ["callers", "C++: short, 16 at once", "756.0", "20.50", "39.00", "0.080 ms of the caller's CPU each, 0 failed"],
        [
            "guard",
            "at Triton: short, 4 at once",
            "310.0",
            "50.50",
            "79.00",
            "6.10 ms of the server's CPU a text, 0 failed",
        ],
        *(
            ["several", f"{case}: short, 4 at once", rate, "5.50", "9.00", f"6.10 {SERVERS_CPU} a text, 0 failed"]
            for case, rate in (("one alone", "310.0"), ("two in turns", "300.0"))
        ),
        ["fairness", "short alone", "", "5.00", "11.00", ""],
        ["repeats", "one text, one caller", "1,690.0", "0.60", "", "6,765 cache hits, 0 executions"],
        ["soak", "10.0 minutes, 32 callers", "", "", "", "52,528 texts, 0 failed, memory +0.89% from 60 s on"],
        ["growth", "8 callers, 16 tokens", "674.3", "11.70", "", "156.0 us of the server's CPU a token"],
    ):
        assert row in rows
    (beside,) = (row for row in rows if row[1] == "short beside 512 tokens at 80% of capacity")
    assert beside[3:] == ["40.00", "79.10", "p99 1.11 times the median of a long one alone"]
    assert "callers   bundled, int8  C++: short, 16 at once" in table.text(result)
    assert set(plots(result)) == {"soak-bundled-int8", "growth-bundled-int8"}


class Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href", "src"):
                self.references.append(value or "")


def test_the_page_holds_all_it_shows(result: Result) -> None:
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
    assert {reference[1:] for reference in outline.references} <= set(outline.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(outline.ids)
    for text in ("A &lt;fast&gt; one", "two workers &amp; a socket", "scripts/bench --quick", "this server"):
        assert text in html


def test_a_page_without_figures_is_still_a_page(result: Result) -> None:
    result.update(points=[], complete=False)
    assert plots(result) == {}
    assert "stopped before its end" in page(result, {})


PAGE = f"What it means.\n{docs.BEGIN}old\n{docs.END}How to run it.\n"


def test_the_documentation_is_made_of_results_and_again_of_what_it_keeps(result: Result, tmp_path: Path) -> None:
    given, document = tmp_path / "result.json", tmp_path / "docs" / "benchmarks.md"
    given.write_text(json.dumps(result))
    document.parent.mkdir()
    document.write_text(PAGE)
    for runs in (1, 2):
        written = docs.write([given] * runs, document).read_text()
        assert written.startswith("What it means.\n")
        assert written.endswith("How to run it.\n")
        assert "old" not in written
        assert written.count("`scripts/bench --quick`") == runs
        # A single caller is held against one worker alone.
        first = "| bundled, int8: mixed lengths | 1 | 120.0 | 90.0 (0.75) |  |"
        assert written.count(first) == runs
        assert (
            written.count("| bundled, int8: mixed lengths | 8 | 200.0 | 190.0 ±5% (0.95) | 100.0 (failures) (0.50) |")
            == runs
        )
        assert ("### Run 2" in written) == (runs == 2)
        pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", written)
        assert len(set(pictures)) == 2 == len(list(document.with_suffix("").glob("*.svg")))
        assert all((document.parent / picture).read_text().startswith("<svg") for picture in pictures)
    (kept, _) = sorted(document.with_suffix("").glob("*.json"))
    assert json.loads(kept.read_text())["points"][0].keys() < result["points"][0].keys() | {"rounds"}
    document.write_text(PAGE)
    assert docs.write([], document).read_text() == written


@pytest.mark.parametrize(
    ("text", "words"), [("No marks.\n", "has no place for tables"), (PAGE, "holds no results: name the result.json")]
)
def test_a_page_that_cannot_be_written_is_named(result: Result, tmp_path: Path, text: str, words: str) -> None:
    document, given = tmp_path / "page.md", tmp_path / "result.json"
    document.write_text(text)
    given.write_text(json.dumps(result))
    with pytest.raises(docs.DocsError, match=words):
        docs.write([given] if "no place" in words else [], document)
    assert document.read_text() == text
