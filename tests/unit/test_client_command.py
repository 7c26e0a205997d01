"""The command's own logic: reading texts, drawing results, and what it says about a wrong command line."""

import io
import json
import os
import re
import socket
import threading
from pathlib import Path

import pytest

from rejection_client import DocumentPrediction, Prediction, Unit
from rejection_client._lines import (
    Form,
    InputError,
    Row,
    argument_rows,
    file_rows,
    input_bytes,
    read_document,
    read_rows,
)
from rejection_client._metrics import activity, parse, refusals, table
from rejection_client._output import Progress, Table, csv_lines, document_lines, json_lines, shorten
from rejection_client.cli import main

REFUSAL = Prediction("REJECTION", 0.98765, {"NORMAL": 0.01235, "REJECTION": 0.98765}, 12, False)
ANSWER = Prediction("NORMAL", 0.0001, {"NORMAL": 0.9999, "REJECTION": 0.0001}, 1024, True)


def read(raw: bytes, form: Form = Form(), problems: list[str] | None = None) -> list[Row]:  # noqa: B008  # immutable
    return list(read_rows(io.BytesIO(raw), form, (problems if problems is not None else []).append))


def test_each_line_is_a_text() -> None:
    rows = read(b"one\n\r\n\nfour \xc3\xa9\r\nfive\rhere\n\x80six")
    assert [row.text for row in rows] == ["one", "", "", "four é", "five\rhere", "\udc80six"]
    assert [row.place for row in rows] == [f"line {number}" for number in range(1, 7)]
    assert [row.bytes_read for row in rows] == [4, 6, 7, 16, 26, 30]


@pytest.mark.parametrize("raw", [b"", b"\n", b"a", b"a\n"])
def test_the_last_newline_ends_a_line_and_begins_none(raw: bytes) -> None:
    assert [row.text for row in read(raw)] == raw.decode().split("\n")[: len(raw.splitlines())]


def test_lines_longer_than_a_read_stay_whole() -> None:
    lines = ["x" * 200_000, "é" * 100_000, "", "y"]
    assert [row.text for row in read("\n".join(lines).encode())] == lines


def test_a_line_is_not_held_back_for_the_next() -> None:
    reader, writer = os.pipe()
    with io.FileIO(reader) as stream:
        # Ends a read that waits for more than is there.
        ending = threading.Timer(10, os.close, [writer])
        ending.start()
        rows = read_rows(stream, Form(), print)
        os.write(writer, b"first\nsecond\nthi")
        assert [next(rows).text, next(rows).text] == ["first", "second"]
        os.write(writer, b"rd\n")
        assert next(rows) == Row("third", "line 3", None, 19)
        ending.cancel()
        os.close(writer)


def test_the_text_of_a_json_line_is_a_field() -> None:
    problems: list[str] = []
    raw = b'{"t": "one", "id": 1}\n\nnot json\n["t"]\n{"t": 5}\n{"t": "\\ud83e"}\r\n{"t": "two\\nlines"}'
    rows = read(raw, Form("jsonl", "t"), problems)
    assert [(row.text, row.place) for row in rows] == [
        ("one", "line 1"),
        ("\ud83e", "line 6"),
        ("two\nlines", "line 7"),
    ]
    assert rows[0].record == {"t": "one", "id": 1}
    assert [problem.split(" is not")[0] for problem in problems] == ["line 3", "line 4", "line 5"]


def test_the_text_of_a_csv_line_is_a_column() -> None:
    problems: list[str] = []
    raw = b'\xef\xbb\xbfid,t\r\n1,"two\r\nlines, ""quoted"""\r\n\r\n2\r\n3,\xff\r\n' + b"4," + b"x" * 300_000
    rows = read(raw, Form("csv", "t"), problems)
    assert [row.text for row in rows[:2]] == ['two\r\nlines, "quoted"', "\udcff"]
    assert [row.place for row in rows] == ["line 3", "line 6", "line 7"]
    assert [row.record["id"] for row in rows if row.record] == ["1", "3", "4"]
    assert rows[-1].bytes_read == len(raw)
    assert problems == ["line 5 has 1 columns where the first line has 2"]
    assert read(b"", Form("csv", "t")) == []


def test_a_column_that_is_not_there_is_an_error() -> None:
    with pytest.raises(InputError, match="no column 'text'; its first line names id, t"):
        read(b"id,t\n1,x\n", Form("csv"))


def test_files_follow_each_other(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "ab"]
    for path in paths:
        with open(path, "w") as file:  # noqa: PTH123  # the name is a str, as the command gets it
            file.write("one\ntwo")
    rows = list(file_rows(paths, Form(), print))
    assert [row.place for row in rows] == [f"{path} line {number}" for path in paths for number in (1, 2)]
    assert [row.bytes_read for row in rows] == [4, 7, 11, 14]
    assert input_bytes(paths) == 14
    assert input_bytes([*paths, os.devnull]) is None
    assert input_bytes([str(tmp_path / "none")]) is None


def test_arguments_are_numbered() -> None:
    assert list(argument_rows(["a", "b"])) == [Row("a", "argument 1", None, 1), Row("b", "argument 2", None, 2)]


def test_a_document_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes("\ufeffdésolé\n".encode())
    (tmp_path / "bad").write_bytes(b"d\xe9sol\xe9")
    assert read_document(str(tmp_path / "good")) == "désolé\n"
    with pytest.raises(InputError, match=r"bad is not UTF-8: .* at byte 1"):
        read_document(str(tmp_path / "bad"))


def test_a_table_with_one_header_and_a_star_for_the_truncated() -> None:
    table = Table(60)
    lines = table.lines(Row("I can't do that.", ""), REFUSAL) + table.lines(Row("Sure:\n\tdone", ""), ANSWER)
    assert lines.splitlines() == [
        "LABEL      P(REJECTION)  TOKENS  TEXT",
        "REJECTION        0.9877      12  I can't do that.",
        "NORMAL           0.0001    1024* Sure: done",
    ]


def test_json_lines_hold_everything() -> None:
    line = json_lines(0.99)(Row('a "quoted"\nline é', ""), REFUSAL)
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "text": 'a "quoted"\nline é',
        "label": "REJECTION",
        "score": 0.98765,
        "is_rejection": False,
        "probabilities": {"NORMAL": 0.01235, "REJECTION": 0.98765},
        "token_count": 12,
        "truncated": False,
    }
    assert json.loads(json_lines(0.5)(Row("a", "", {"id": 1}), REFUSAL))["record"] == {"id": 1}


def test_csv_keeps_the_columns_that_came_in() -> None:
    line = csv_lines(0.5)
    record = {"text": 'a, "b"', "label": "old"}
    assert line(Row('a, "b"', "", record), REFUSAL) + line(Row("c", "", {"text": "c", "label": ""}), ANSWER) == (
        "text,label,predicted_label,score,is_rejection,token_count,truncated\n"
        '"a, ""b""",old,REJECTION,0.98765,true,12,false\n'
        "c,,NORMAL,0.0001,false,1024,true\n"
    )
    assert csv_lines(0.5)(Row("x", ""), REFUSAL).splitlines()[1] == "x,REJECTION,0.98765,true,12,false"


def test_a_document_is_shown_by_its_highest_part_or_all() -> None:
    text = "Sure. I can't do that."
    units = (Unit(0, 5, ANSWER), Unit(6, 22, REFUSAL))
    highest = DocumentPrediction(units[1], 2, ())
    assert document_lines(text, highest, 0.5, "table", 76).splitlines() == [
        "    CHARACTERS  LABEL      P(REJECTION)  TOKENS  TEXT",
        "          6-22  REJECTION        0.9877      12  I can't do that.",
    ]
    every = document_lines(text, DocumentPrediction(units[1], 2, units), 0.5, "jsonl", 76).splitlines()
    fields = ("start", "end", "text", "highest", "is_rejection", "unit_count")
    assert [[json.loads(line)[field] for field in fields] for line in every] == [
        [0, 5, "Sure.", False, False, 2],
        [6, 22, "I can't do that.", True, True, 2],
    ]


METRICS = """
# HELP nv_inference_request_success Number of successful inference requests
nv_inference_request_success{model="m",version="1"} %d
nv_inference_request_failure{model="m",reason="REJECTED",version="1"} %d
nv_inference_request_failure{model="m",reason="OTHER",version="1"} %d
nv_inference_count{model="m",version="1"} %d
nv_inference_exec_count{model="m",version="1"} %d
nv_inference_request_duration_us{model="m",version="1"} %d
nv_inference_queue_duration_us{model="m",version="1"} %d
nv_inference_pending_request_count{model="m",version="1"} 3
nv_cpu_utilization 0.5
rejection_guard_refused_total{reason="full"} %d
rejection_guard_refused_total{reason="invalid"} 1
"""


def test_activity_is_the_difference_of_two_readings() -> None:
    before = parse(METRICS % (10, 0, 2, 20, 10, 0, 0, 0))
    after = parse(METRICS % (110, 5, 8, 420, 60, 500_000, 100_000, 3))
    (row,) = activity(before, after, 2.0)
    assert (row.model, row.requests_per_s, row.failures_per_s, row.texts_per_s) == ("m", 50, 4, 200)
    assert (row.latency_ms, row.queue_ms, row.batch_size, row.waiting) == (5, 1, 8, 3)
    refused = refusals(before, after, 2.0)
    assert refused == {"full": 1.5, "invalid": 0}
    header, line, last = table([row], refused).splitlines()
    assert last == "refused before Triton: 1.5/s, full 1.5"
    assert len(table([row], {}).splitlines()) == 2
    assert header.split()[:4] == ["MODEL", "REQUESTS/S", "FAILED/S", "TEXTS/S"]
    assert line.split() == ["m", "50.0", "4.0", "200.0", "5.0", "1.0", "8.0", "3"]


def test_activity_of_an_idle_and_of_a_restarted_server() -> None:
    reading = parse(METRICS % (10, 0, 2, 20, 10, 100, 0, 1))
    (idle,) = activity(reading, reading, 1.0)
    assert (idle.requests_per_s, idle.latency_ms, idle.batch_size) == (0, None, None)
    (restarted,) = activity(more := parse(METRICS % (1000, 0, 2, 2000, 10, 100, 0, 5)), reading, 1.0)
    assert restarted.requests_per_s == 10
    assert refusals(more, reading, 1.0) == {"full": 1, "invalid": 1}
    assert activity({}, {}, 1.0) == []
    assert refusals({}, {}, 1.0) == {}


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


def test_progress_shows_once_a_run_lasts_and_is_taken_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    with Progress(shown=True) as progress, Progress(shown=False) as silent:
        progress.add(1000)
        assert capsys.readouterr().err == ""
        now_s += 2.5
        progress.add(1000)
        assert capsys.readouterr().err == "\r2,000 texts, 800 texts/s\x1b[K"
        progress.add(1000)
        assert capsys.readouterr().err == ""
        silent.add(1000)
    assert capsys.readouterr() == ("", "\r\x1b[K")


def test_progress_has_a_bar_where_the_end_is_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    with Progress(shown=True, total=4000) as progress:
        now_s += 10
        progress.add(1000, 1000)
        assert capsys.readouterr().err == "\r[######..................]  25%  1,000 texts, 100 texts/s\x1b[K"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COMMAND"),
        (["clasify", "x"], "clasify"),
        (["classify", "--timeout", "0", "x"], "'0' is not a number of seconds above 0"),
        (["classify", "--timeout", "inf", "x"], "'inf' is not a number of seconds above 0"),
        (["classify", "--max-length", "0", "x"], "'0' is not a number from 1 up"),
        (["classify", "--output", "xml", "x"], "xml"),
        (["classify", "--threshold", "1.5", "x"], "'1.5' is not a number from 0 to 1"),
        (["classify", "--jsonl", "a", "--csv", "b"], "not allowed with"),
        (["classify", "--cert", "client.pem", "x"], "go together"),
        (["classify", "--ca", "/no/ca.pem", "x"], "ca_path /no/ca.pem cannot be read"),
        (["document", "--unit", "words"], "words"),
        (["watch", "--interval", "-1"], "'-1' is not a number of seconds"),
        (["classify", "--out", "jsonl", "x"], "--out"),
        (["classify", "--url", "http://127.0.0.1:8001", "x"], "has a scheme"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_sentence(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["classify"], ["document"], ["health"], ["info"], ["watch"]])
def test_help_teaches_with_examples_and_exit_codes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert arguments not in ([], ["classify"]) or len(re.findall(r"^  .*rejection \w+ ", out, flags=re.MULTILINE)) >= 5
    assert all(f"\n  {code:<4} " in out for code in (0, 1, 2, 3, 130, 141))


def test_no_server_is_told_in_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("REJECTION_URL", address)
    assert main(["classify", "text"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"rejection: cannot reach {address}: ")
    assert err.count("\n") == 1
