"""Results in files: what a stopped run leaves, however it is cut, is gone on with as if it had not been stopped."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rejection_client import ModelInfo, Prediction, _files
from rejection_client._files import ResultFile
from rejection_client._output import Csv, JsonLines, Style
from rejection_client._resume import skip_written
from rejection_client._rows import UNSENDABLE, InputError, Row
from unit.test_client_output import BINARY, FIVE, csv_of, json_lines

TEXTS = ["one", 'two "quoted"\n\n"lines"', "", "désolé, 🤷", "half \ud83e", "six\r\n"]


def rows(*, records: bool = True, count: int = 7) -> Iterator[Row]:
    """Rows of every kind, the first two of them broken."""
    yield Row(UNSENDABLE, "line 1", line=1, problem="is not JSON")
    yield Row(UNSENDABLE, "line 2", {"t": 5} if records else None, line=2, problem="has a number")
    for line, text in enumerate(TEXTS[: count - 2], 3):
        yield Row(text, f"line {line}", {"t": text, "n": [line]} if records else None, line=line)


def make(form: str, model: ModelInfo = BINARY) -> JsonLines[Prediction] | Csv[Prediction]:
    style = Style(model, 0.5)
    return csv_of(style, ["line"]) if "csv" in form else json_lines(style)


def run(path: Path, given: Iterator[Row], stop_after: int | None = None, model: ModelInfo = BINARY) -> int:
    """What the command does, with the text's length as its score; returns the rows that were classified."""
    output, start, asked = make(path.name, model), None, 0
    if path.exists():
        _, start = skip_written(str(path), output, given, model)
    with ResultFile(str(path), start) as file:
        for row in given:
            if asked == stop_after:
                return asked
            asked += 1
            if row.problem:
                file.write(output.failed(row, f"{row.place} {row.problem}"))
            else:
                scores = [len(row.text) / 100] * (len(model.labels) - 1) + [1 - len(row.text) / 100]
                found = dict(zip(model.labels, scores, strict=True))
                file.write(output.found(row, Prediction(model.labels[-1], found, 3, False, model.positive_label)))
        file.write(output.end())
    return asked


def plain(path: Path) -> bytes:
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.name.endswith(".gz") else raw


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz", "a.csv.gz"])
@pytest.mark.parametrize("records", [True, False])
def test_a_file_that_was_cut_anywhere_is_made_whole(
    tmp_path: Path, name: str, records: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "MEMBER_BYTES", 300)  # some members of some records each
    whole, cut = tmp_path / name, tmp_path / f"cut.{name}"
    assert run(whole, rows(records=records)) == 7
    raw, expected = whole.read_bytes(), plain(whole)
    header = expected.index(b"\n") + 1
    asked = []
    for length in (*range(0, len(raw), 3), len(raw)):
        cut.write_bytes(raw[:length])
        if name == "a.csv" and 0 < length < header:  # itself cut, it tells nothing
            assert "holds no results of this command" in refusal(cut, rows(records=records))
            continue
        asked.append(run(cut, rows(records=records)))
        assert plain(cut) == expected, f"after {length} bytes"
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] == 0
    assert len(set(asked)) >= 3


@pytest.mark.parametrize("stop_after", range(8))
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.csv.gz"])
def test_a_run_that_was_stopped_goes_on(tmp_path: Path, name: str, stop_after: int) -> None:
    whole, stopped = tmp_path / name, tmp_path / f"stopped.{name}"
    run(whole, rows())
    first = run(stopped, rows(), stop_after)
    lost = 1 if stop_after == 1 and "csv" in name else 0  # a row that waits for the columns
    assert first + run(stopped, rows()) == 7 + lost
    assert plain(stopped) == plain(whole)


def refusal(path: Path, given: Iterator[Row], model: ModelInfo = BINARY) -> str:
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        run(path, given, model=model)
    assert path.read_bytes() == before
    told = str(caught.value)
    assert str(path) in told
    assert told.endswith("; name another --output-file, or delete it")
    return told


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz", "a.csv.gz"])
def test_what_is_of_another_run_is_refused_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    run(path, rows())
    assert "more rows than the input, which has 5;" in refusal(path, rows(count=5))
    other = (row._replace(record={"t": "x", "n": 1}, text="x") if row.line == 4 else row for row in rows())
    assert "its row 4 is not line 4;" in refusal(path, other)
    told = refusal(path, rows(), FIVE)
    assert ("other columns than" if "csv" in name else "scores of NORMAL, REJECTION, and the model has one,") in told


@pytest.mark.parametrize("raw", [b"x", b"hello\n", b'{"id": 1}\n', b"a,b\n1,2\n", b"text\n", b'"'])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.csv.gz"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, raw: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    refusal(path, rows())


def test_a_gzip_member_that_ends_within_a_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    run(path, rows())
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()[:-5]))
    with pytest.raises(InputError, match="ends within a record"):
        run(packed, rows())
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["text"] == TEXTS[4]


def test_two_runs_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    run(path, rows(), stop_after=3)
    before = path.read_bytes()
    with ResultFile(str(path), len(before)):
        with pytest.raises(InputError, match=r"a\.jsonl is being written by another run"):
            run(path, rows())
        assert path.read_bytes() == before
    assert run(path, rows()) == 4
