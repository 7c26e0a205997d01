"""What the command writes: JSON lines, CSV, tables and progress, for models of every kind."""

import csv
import functools
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest

from rejection_client import DocumentPrediction, ModelInfo, Prediction, Result, ServerError, Unit
from rejection_client._output import Csv, JsonLines, Output, Style, document_json, fields_of, found_columns
from rejection_client._progress import Progress
from rejection_client._rows import UNSENDABLE, Row
from rejection_client._several_output import SeveralTable, columns_of_several, fields_of_several
from rejection_client._table import Table, document_table, shorten


def info(*labels: str, positive: str | None = None, function: str = "softmax", problem: str | None = None) -> ModelInfo:
    return ModelInfo(
        name="m",
        versions=("1",),
        labels=labels,
        positive_label=positive,
        function_to_apply=function,
        problem_type=problem,
        model_id=None,
        model_revision=None,
        model_sha256=None,
        precision=None,
        model_version=None,
        max_batch_size=64,
        max_length=512,
        server="triton 2",
    )


def prediction(model: ModelInfo, *scores: float, tokens: int = 12, truncated: bool = False) -> Prediction:
    label = model.labels[scores.index(max(scores))]
    return Prediction(label, dict(zip(model.labels, scores, strict=True)), tokens, truncated, model.positive_label)


BINARY = info("NORMAL", "REJECTION", positive="REJECTION")
FIVE = info("one", "two", "three", "four", "five")
MULTI = info(*(f"topic {n}" for n in range(12)), function="sigmoid", problem="multi_label_classification")
RAW = info("stars", function="none", problem="regression")
REFUSAL = prediction(BINARY, 0.01235, 0.98765)
ANSWER = prediction(BINARY, 0.9999, 0.0001, tokens=1024, truncated=True)
STYLE = Style(BINARY, 0.5, 60)


def json_lines(style: Style) -> JsonLines[Prediction]:
    return JsonLines(functools.partial(fields_of, style=style))


def csv_of(style: Style, places: Sequence[str]) -> Csv[Prediction]:
    return Csv(found_columns(style), places)


def records(output: Output[Any], *rows: tuple[Row, Any]) -> list[dict[str, str]]:
    """What was written as CSV, read again."""
    lines = [output.failed(row, found) if isinstance(found, str) else output.found(row, found) for row, found in rows]
    return list(csv.DictReader(io.StringIO("".join([*lines, output.end()]))))


def test_a_table_with_one_header_and_a_star_for_the_truncated() -> None:
    table = Table(STYLE)
    lines = table.found(Row("I can't do that.", ""), REFUSAL) + table.found(Row("Sure:\n\tdone", ""), ANSWER)
    assert (lines + table.failed(Row("x", ""), "line 3 is bad")).splitlines() == [
        "LABEL      P(REJECTION)  TOKENS  TEXT",
        "REJECTION        0.9877      12  I can't do that.",
        "NORMAL           0.0001    1024* Sure: done",
        "ERROR                            line 3 is bad",
    ]


def test_a_table_has_a_column_for_every_label() -> None:
    line = Table(Style(FIVE, 0.5, 120)).found(Row("hello", ""), prediction(FIVE, 0.1, 0.2, 0.4, 0.2, 0.1))
    assert line.splitlines() == [
        "LABEL    P(one)    P(two)  P(three)   P(four)   P(five)  TOKENS  TEXT",
        "three    0.1000    0.2000    0.4000    0.2000    0.1000      12  hello",
    ]


def test_more_labels_than_fit_stand_below_the_text_best_first() -> None:
    scores = [0.9, 0.05, 0.7] + [0.01 * n for n in range(9)]
    first, second, *more = Table(Style(MULTI, 0.5, 80)).found(Row("hello", ""), prediction(MULTI, *scores)).splitlines()
    assert first == "LABEL     TOKENS  TEXT"
    assert second == "topic 0, topic 2      12  hello"
    assert " ".join(more).split()[:6] == ["P(topic", "0)", "0.9000", "P(topic", "2)", "0.7000"]
    assert sum(line.count("P(topic") for line in more) == 12
    assert all(len(line) <= 80 for line in more)


def test_raw_scores_are_not_called_probabilities() -> None:
    lines = Table(Style(RAW, 0.5, 60)).found(Row("hello", ""), prediction(RAW, -3.25)).splitlines()
    assert lines == ["LABEL  SCORE(stars)  TOKENS  TEXT", "stars       -3.2500      12  hello"]
    unsaid = ModelInfo(**{**{f: getattr(BINARY, f) for f in BINARY.__slots__}, "function_to_apply": None})
    assert "SCORE(REJECTION)" in Table(Style(unsaid, 0.5, 60)).found(Row("x", ""), REFUSAL)


def test_json_lines_hold_everything() -> None:
    line = json_lines(Style(BINARY, 0.99)).found(Row('a "quoted"\nline é', "", line=3, file="f"), REFUSAL)
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "text": 'a "quoted"\nline é',
        "file": "f",
        "line": 3,
        "label": "REJECTION",
        "score": 0.98765,
        "is_rejection": False,
        "scores": {"NORMAL": 0.01235, "REJECTION": 0.98765},
        "token_count": 12,
        "truncated": False,
    }
    assert json.loads(json_lines(STYLE).found(Row("a", "", {"id": 1}), REFUSAL))["record"] == {"id": 1}


def test_json_lines_hold_no_number_that_json_has_not() -> None:
    record = {"t": "a", "price": float("nan"), "more": [{"x": float("inf")}, 1.5]}
    told = json_lines(Style(BINARY, 0.5)).found(Row("a", "line 1", record), prediction(BINARY, 0.1, 0.9))

    def refuse(name: str) -> None:
        raise AssertionError(name)

    held = json.loads(told, parse_constant=refuse)
    assert held["record"] == {"t": "a", "price": None, "more": [{"x": None}, 1.5]}


def test_json_lines_of_a_model_without_a_verdict_have_none() -> None:
    found = json.loads(json_lines(Style(FIVE, 0.5)).found(Row("a", ""), prediction(FIVE, 0.1, 0.2, 0.4, 0.2, 0.1)))
    assert not {"score", "is_rejection", "labels"} & set(found)
    assert (found["label"], len(found["scores"])) == ("three", 5)


def test_json_lines_of_a_multi_label_model_name_every_label_above_the_threshold() -> None:
    scores = [0.6, 0.05, 0.9, *[0.5] * 9]
    found = json.loads(json_lines(Style(MULTI, 0.5)).found(Row("a", ""), prediction(MULTI, *scores)))
    assert found["labels"] == ["topic 2", "topic 0"]
    assert len(found["scores"]) == 12


def test_a_failed_row_is_a_json_line_with_its_error() -> None:
    line = json_lines(STYLE).failed(Row(UNSENDABLE, "line 2", {"id": 1}, line=2, problem="has no field 't'"), "why")
    assert json.loads(line) == {"text": None, "line": 2, "error": "why", "record": {"id": 1}}


def test_csv_has_a_column_for_every_label() -> None:
    (row,) = records(csv_of(Style(FIVE, 0.5), []), (Row("a", ""), prediction(FIVE, 0.1, 0.2, 0.4, 0.2, 0.1)))
    columns = ["text", "label", "one", "two", "three", "four", "five", "token_count", "truncated", "error"]
    assert list(row) == columns
    assert [row[name] for name in columns] == ["a", "three", "0.1", "0.2", "0.4", "0.2", "0.1", "12", "false", ""]
    (row,) = records(csv_of(Style(MULTI, 0.5), []), (Row("a", ""), prediction(MULTI, 0.6, *[0.9] * 2, *[0.1] * 9)))
    assert row["labels"] == "topic 1, topic 2, topic 0"
    assert row["topic 11"] == "0.1"


def test_csv_keeps_the_columns_that_came_in() -> None:
    output = csv_of(STYLE, ["file", "line"])
    rows = [
        Row("c", "", {"text": 'a, "b"', "label": "old", "n": [1, None]}, line=2, file="f"),
        Row("c", "", {}, line=3),
    ]
    written = output.found(rows[0], REFUSAL) + output.failed(rows[1], "why, really")
    assert written == (
        "text,label,n,file,line,predicted_label,score,is_rejection,NORMAL,REJECTION,token_count,truncated,error\n"
        '"a, ""b""",old,"[1, null]",f,2,REJECTION,0.98765,true,0.01235,0.98765,12,false,\n'
        ',,,,3,,,,,,,,"why, really"\n'
    )


def test_names_of_labels_and_columns_stay_apart() -> None:
    model = info("label", "error", "predicted_label")
    (row,) = records(csv_of(Style(model, 0.5), []), (Row("a", "", {"id": 1}), prediction(model, 0.1, 0.7, 0.2)))
    assert row["label"] == "error"
    assert [row[name] for name in ("predicted_label", "predicted_error", "predicted_predicted_label")] == [
        "0.1",
        "0.7",
        "0.2",
    ]


def test_rows_before_the_first_record_wait_for_the_columns() -> None:
    bad = Row(UNSENDABLE, "line 1", line=1, problem="is not JSON")
    found = records(csv_of(STYLE, ["line"]), (bad, "bad"), (Row("a", "", {"id": 7}, line=2), REFUSAL))
    assert [(row["id"], row["line"], row["error"]) for row in found] == [("", "1", "bad"), ("7", "2", "")]
    assert [row["error"] for row in records(csv_of(STYLE, ["line"]), (bad, "bad"))] == ["bad"]
    assert records(csv_of(STYLE, [])) == []


def test_a_document_is_shown_by_its_highest_part_or_all() -> None:
    text = "Sure. I can't do that."
    units = (Unit(0, 5, ANSWER), Unit(6, 22, REFUSAL))
    highest = DocumentPrediction(units[1], 2, ())
    assert document_table(text, highest, Style(BINARY, 0.5, 76)).splitlines() == [
        "    CHARACTERS  LABEL      P(REJECTION)  TOKENS  TEXT",
        "          6-22  REJECTION        0.9877      12  I can't do that.",
    ]
    every = document_json(text, DocumentPrediction(units[1], 2, units), STYLE).splitlines()
    fields = ("start", "end", "text", "highest", "is_rejection", "unit_count")
    assert [[json.loads(line)[field] for field in fields] for line in every] == [
        [0, 5, "Sure.", False, False, 2],
        [6, 22, "I can't do that.", True, True, 2],
    ]


@pytest.mark.parametrize(
    ("text", "columns", "short"),
    [
        ("exactly ten", 11, "exactly ten"),
        ("exactly ten", 10, "exactly t…"),
        ("  many \n\t spaces  ", 30, "many spaces"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("\x1b[31mred\x07", 20, "\ufffd[31mred\ufffd"),
        ("", 20, ""),
    ],
)
def test_texts_are_shortened_to_columns(text: str, columns: int, short: str) -> None:
    assert shorten(text, columns) == short


def test_a_long_gap_does_not_hide_the_rest() -> None:
    assert shorten("a" + " " * 1000 + "b" * 1000, 5) == "a bb…"


def test_progress_is_a_bar_on_a_terminal_once_a_run_lasts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    with Progress("bar", total=40) as progress, Progress(None) as silent:
        progress.add(1)
        assert capsys.readouterr().err == ""
        now_s += 2.5
        progress.add(10)
        assert capsys.readouterr().err == "\r[######..................]  25%  2 texts, 1 texts/s\x1b[K"
        progress.add(20)
        silent.add(20)
        assert capsys.readouterr().err == ""
    assert capsys.readouterr() == ("", "\r\x1b[K")


def test_progress_is_a_line_every_ten_seconds_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    with Progress("lines", total=40) as progress:
        for _ in range(40):
            now_s += 1
            progress.add(progress.done + 1)
    assert capsys.readouterr().err.splitlines() == [
        "rejection: 10 texts, 1 texts/s, 25% of the input",
        "rejection: 20 texts, 1 texts/s, 50% of the input",
        "rejection: 30 texts, 1 texts/s, 75% of the input",
        "rejection: 40 texts, 1 texts/s, 100% of the input",
    ]


SEVERAL = {"refusal": Style(BINARY, 0.5), "topics": Style(MULTI, 0.5)}
BOTH = {
    "refusal": Result(0, "a", REFUSAL),
    "topics": Result(0, "a", prediction(MULTI, 0.6, *[0.9] * 2, *[0.1] * 9)),
}
ONE = BOTH | {"topics": Result(0, "a", None, ServerError("out of\norder"))}


def test_several_models_have_an_object_each() -> None:
    lines: JsonLines[Any] = JsonLines(functools.partial(fields_of_several, SEVERAL))
    found = json.loads(lines.found(Row("a", "", {"id": 1}), ONE))
    assert found == {
        "text": "a",
        "models": {"refusal": fields_of(REFUSAL, STYLE), "topics": {"error": "out of order"}},
        "record": {"id": 1},
    }


def test_several_models_have_columns_each() -> None:
    output: Csv[Any] = Csv(columns_of_several(SEVERAL), ["line"])
    first, second, third = records(output, (Row("a", ""), BOTH), (Row("b", ""), ONE), (Row("c", ""), "bad"))
    assert (first["refusal.label"], first["refusal.score"], first["refusal.error"]) == ("REJECTION", "0.98765", "")
    assert (first["topics.labels"], first["topics.topic 0"]) == ("topic 1, topic 2, topic 0", "0.6")
    assert (second["refusal.label"], second["topics.label"], second["topics.error"]) == (
        *("REJECTION", ""),
        "out of order",
    )
    assert (third["text"], third["refusal.label"], third["error"]) == ("c", "", "bad")


def test_a_table_of_several_models() -> None:
    table = SeveralTable(SEVERAL, 80)
    lines = table.found(Row("hello", ""), BOTH) + table.found(Row("hello", ""), ONE)
    assert (lines + table.failed(Row("x", ""), "line 3 is bad")).splitlines() == [
        "REFUSAL          P  TOPICS          P  TEXT",
        "REJECTION   0.9877  topic 1, topic 2, topic 0   0.9000  hello",
        "REJECTION   0.9877  ERROR              hello",
        "ERROR               ERROR              line 3 is bad",
    ]
