"""The command's own logic: reading lines, drawing results, and what it says about a wrong command line."""

import io
import json
import os
import re
import socket
import threading

import pytest

from rejection_client import Prediction
from rejection_client._lines import BATCH, Row, batched, read_batches
from rejection_client._output import Progress, Table, json_line, shorten
from rejection_client.cli import main

REFUSAL = Prediction("REJECTION", 0.98765, {"NORMAL": 0.01235, "REJECTION": 0.98765}, 12)
ANSWER = Prediction("NORMAL", 0.0001, {"NORMAL": 0.9999, "REJECTION": 0.0001}, 1024)


def read(raw):
    return [row for batch in read_batches(io.BufferedReader(io.BytesIO(raw))) for row in batch]


def test_each_line_is_a_text():
    rows = read(b"one\n\r\n\nfour \xc3\xa9\r\nfive\rhere\n\x80six")
    assert [row.text for row in rows] == ["one", "", "", "four é", "five\rhere", "\udc80six"]
    assert [row.place for row in rows] == [f"line {number}" for number in range(1, 7)]


@pytest.mark.parametrize("raw", [b"", b"\n", b"a", b"a\n"])
def test_the_last_newline_ends_a_line_and_begins_none(raw):
    assert [row.text for row in read(raw)] == raw.decode().split("\n")[: len(raw.splitlines())]


def test_lines_longer_than_a_read_stay_whole():
    lines = ["x" * 200_000, "é" * 100_000, "", "y"]
    assert [row.text for row in read("\n".join(lines).encode())] == lines


def test_batches_are_bounded():
    batches = list(batched(Row(str(n), "") for n in range(2 * BATCH + 5)))
    assert [len(batch) for batch in batches] == [BATCH, BATCH, 5]


def test_a_line_is_not_held_back_for_the_next():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        # Ends a read that waits for more than is there.
        ending = threading.Timer(10, os.close, [writer])
        ending.start()
        batches = read_batches(stream)
        os.write(writer, b"first\nsecond\nthi")
        assert [row.text for row in next(batches)] == ["first", "second"]
        os.write(writer, b"rd\n")
        assert next(batches) == (Row("third", "line 3"),)
        ending.cancel()
        os.close(writer)


def test_a_table_with_one_header():
    table = Table(60)
    lines = table.lines(Row("I can't do that.", ""), REFUSAL) + table.lines(Row("Sure:\n\tdone", ""), ANSWER)
    assert lines.splitlines() == [
        "LABEL      P(REJECTION)  TOKENS  TEXT",
        "REJECTION        0.9877      12  I can't do that.",
        "NORMAL           0.0001    1024  Sure: done",
    ]


def test_json_lines_hold_everything():
    line = json_line(Row('a "quoted"\nline é', ""), REFUSAL)
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "text": 'a "quoted"\nline é',
        "label": "REJECTION",
        "score": 0.98765,
        "probabilities": {"NORMAL": 0.01235, "REJECTION": 0.98765},
        "token_count": 12,
    }


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
def test_texts_are_shortened_to_columns(text, columns, short):
    assert shorten(text, columns) == short


def test_a_long_gap_does_not_hide_the_rest():
    assert shorten("a" + " " * 1000 + "b" * 1000, 5) == "a bb…"


def test_progress_shows_once_a_run_lasts_and_is_taken_off(capsys, monkeypatch):
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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COMMAND"),
        (["clasify", "x"], "clasify"),
        (["classify", "--timeout", "0", "x"], "'0' is not a number of seconds above 0"),
        (["classify", "--timeout", "inf", "x"], "'inf' is not a number of seconds above 0"),
        (["classify", "--max-length", "0", "x"], "'0' is not a number of tokens"),
        (["classify", "--output", "xml", "x"], "xml"),
        (["classify", "--out", "jsonl", "x"], "--out"),
        (["classify", "--url", "http://127.0.0.1:8001", "x"], "has a scheme"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_sentence(arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["classify", "--help"]])
def test_help_teaches_with_examples(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^  .*rejection classify ", out, flags=re.MULTILINE)) >= 5
    assert all(f"\n  {code:<4} " in out for code in (0, 1, 2, 130, 141))


def test_no_server_is_told_in_one_sentence(capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("REJECTION_URL", address)
    assert main(["classify", "text"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"rejection: cannot reach {address}: ")
    assert err.count("\n") == 1
