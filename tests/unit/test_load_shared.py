"""What load tests and benchmark share: charts, histograms, tables, Triton's metrics, files of texts."""

import random
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from load import metrics, texts
from load.charts import BLUE, GREEN, RED, Bars, Panel, Series, draw
from load.histogram import Histogram, merged
from load.tables import Marked, Table


def test_percentiles_are_within_a_thousandth() -> None:
    values = sorted(random.Random(1).lognormvariate(3, 1) for _ in range(5000))
    histogram = Histogram(values)
    for percent in (50, 90, 99, 99.9, 100):
        assert histogram.percentile(percent) == pytest.approx(values[int(len(values) * percent / 100) - 1], rel=0.001)
    assert Histogram().percentile(50) is None


@pytest.mark.parametrize(("percent", "value"), [(1, 10), (25, 10), (26, 20), (50, 20), (75, 40), (76, 80), (100, 80)])
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(percent: float, value: float) -> None:
    assert Histogram((80, 10, 40, 20)).percentile(percent) == pytest.approx(value, rel=0.001)


def test_merging_is_counting_together_and_survives_json() -> None:
    whole = merged([Histogram((1, 1, 5)), Histogram.from_text(Histogram((1,)).to_text())])
    assert whole.total == 4
    assert [(round(ms, 1), percent) for ms, percent in whole.shares()] == [(1, 75), (5, 100)]
    assert whole.to_text() == Histogram((5, 1, 1, 1)).to_text()


def test_what_no_histogram_holds_counts_as_its_least_and_its_most() -> None:
    assert Histogram((-1.0, 0.0)).percentile(100) == 0.001
    assert Histogram((1e12,)).percentile(100) == pytest.approx(36_000_000, rel=0.001)


PANEL = Panel(
    "Latency, <ms>",
    [
        Series("p50", [(0, 1.0), (30, None), (60, 2.0), (90, 3.0)], GREEN),
        Series("p99", [(0, 10.0), (90, 90.0)], RED, is_dashed=True, has_marks=True, is_thick=True),
    ],
    x_title="min:s",
    x_scale="time",
    y_scale="log",
    limit=200.0,
    spans=[(0, 45, "first"), (45, 90, "second"), (90, 90.1, "no room")],
)
BARS = Bars("Parts", ["one", "other"], [("queue", RED, [1, 2]), ("model", BLUE, [3, 4])], "ms", ("alone", [3.0, 3.5]))
CALLERS = Panel(
    "texts/s", [Series("", [(1, 5), (8, 9)], BLUE, is_thick=True)], x_scale="log2", x_ticks=(1, 8), x_range=(0.5, 10)
)


def words_of(svg: str) -> list[str]:
    return [element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text") if element.text]


def test_a_chart_is_the_same_bytes_for_the_same_figures_and_its_text_is_text() -> None:
    drawn = draw([PANEL, BARS, CALLERS], title="All & $sundry$")
    assert drawn == draw([PANEL, BARS, CALLERS], title="All & $sundry$")
    words = words_of(drawn)
    for expected in ("All & $sundry$", "Latency, <ms>", "0:30", "1:30", "goal 200", "first", "second", "100"):
        assert expected in words
    for expected in ("p50", "p99", "queue", "model", "alone", "one", "other", "8"):
        assert expected in words
    assert "no room" not in words


def test_charts_share_a_page_and_ask_nothing_of_the_network() -> None:
    drawn = draw([PANEL, BARS])
    ids = {element.get("id") for element in ET.fromstring(drawn).iter()} - {None}
    assert all(f"#{name}" in drawn for name in ids)
    assert not ids & {element.get("id") for element in ET.fromstring(draw([CALLERS, BARS])).iter()}
    assert not any(line in drawn for line in ("@import", "url(http", 'href="http'))


def test_an_hour_of_seconds_stays_small() -> None:
    rng = random.Random(1)
    hour = Panel("Hour", [Series("", [(second, rng.random()) for second in range(3600)], BLUE)], x_scale="time")
    drawn = draw([hour])
    assert len(drawn) < 60_000
    assert len(drawn.splitlines()) < 400


@pytest.mark.parametrize("series", [[], [Series("p50", [], BLUE)], [Series("p50", [(1, None)], BLUE)]])
def test_nothing_to_draw_is_said(series: list[Series]) -> None:
    assert "nothing measured" in words_of(draw([Panel("Rate", series, limit=5.0, spans=[(0, 9, "steady")])]))


TABLE = Table(["", "p50", "failed|with"], [["a", 1.5, None], ["<b>", "22", Marked("too\nmuch", "bad")]], words=(0, 2))


def test_a_table_is_text_markdown_and_html() -> None:
    rows = Table(["", "ms"], [["one", 5], ["another", "1000"]])
    assert rows.text() == "           ms\none         5\nanother  1000"
    assert Table(["", ""], [["one", 5]]).text() == "one  5"
    assert TABLE.markdown().splitlines()[:3] == ["|  | p50 | failed\\|with |", "| --- | ---: | --- |", "| a | 1.5 |  |"]
    assert TABLE.html() == (
        "<table><tr><th></th><th class=n>p50</th><th>failed|with</th></tr><tr><td>a</td><td class=n>1.5</td><td></td>"
        '</tr><tr><td>&lt;b&gt;</td><td class=n>22</td><td><span class="bad">too<br>much</span></td></tr></table>'
    )
    assert "<tr><th>" not in Table(["", ""], [["one", 5]]).html()


METRICS = """\
# HELP nv_inference_count Number of inferences
# TYPE nv_inference_count counter
nv_inference_count{model="a \\"b\\"",version="1"} 3
nv_inference_count{model="a \\"b\\"",version="2"} 4
# TYPE nv_energy gauge
nv_energy{gpu_uuid="x"} 1.5e3
"""


def test_metrics_are_read_by_name_and_model() -> None:
    assert metrics.read(METRICS) == {"nv_inference_count": {'a "b"': 7.0}, "nv_energy": {"": 1500.0}}
    with pytest.raises(ValueError, match="float"):
        metrics.read('nonsense{ 1"')


def test_a_counter_that_went_back_rose_by_nothing() -> None:
    before, after = {"n": {"a": 5.0, "b": 5.0}}, {"n": {"a": 7.0, "b": 1.0, "c": 2.0}}
    assert metrics.rise(before, after, "n") == {"a": 2.0, "b": 0.0, "c": 2.0}
    assert metrics.rise(before, after, "unknown") == {}


def test_texts_are_lines_or_json_lines(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one\n\n{two}\u2028still two\n", encoding="utf-8")
    (tmp_path / "texts.jsonl").write_text('{"text": "a\\nb"}\n\n{"text": "c", "label": 1}\n', encoding="utf-8")
    assert texts.read(tmp_path / "texts.txt") == ["one", "{two}\u2028still two"]
    assert texts.read(tmp_path / "texts.jsonl") == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "hold no texts"),
        (b'{"text": 5}', "hold no texts"),
        (b'{"label": 1}', 'a field "text"'),
        (b"[1]", 'a field "text"'),
        (b"\xff", "UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_texts_is_named_in_a_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "some.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}.*{sentence}"):
        texts.read(path)
