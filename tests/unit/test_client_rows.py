"""Reading texts: lines, JSON lines, CSV and Parquet, plain and packed, and what is no text."""

import gzip
import io
import os
import threading
from pathlib import Path

import pytest

from rejection_client._lines import check_columns, file_rows, form_of, read_rows
from rejection_client._rows import UNSENDABLE, Form, InputError, Row, argument_rows
from rejection_client._sources import input_bytes, read_document


def read(raw: bytes, form: Form = Form()) -> list[Row]:  # noqa: B008  # immutable
    return list(read_rows(io.BytesIO(raw), form))


def write(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    return str(path)


def test_each_line_is_a_text() -> None:
    rows = read(b"\xef\xbb\xbfone\n\r\n\nfour \xc3\xa9\r\nfive\rhere\n\x80six")
    assert [row.text for row in rows] == ["one", "", "", "four é", "five\rhere", UNSENDABLE]
    assert (rows[-1].problem or "").startswith("is not UTF-8: invalid start byte at byte 1; convert")
    assert [row.place for row in rows] == [f"line {number}" for number in range(1, 7)]
    assert [row.line for row in rows] == [*range(1, 7)]
    assert [row.bytes_read for row in rows] == [7, 9, 10, 19, 29, 33]


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
        rows = read_rows(stream, Form())
        os.write(writer, b"first\nsecond\nthi")
        assert [next(rows).text, next(rows).text] == ["first", "second"]
        os.write(writer, b"rd\n")
        assert next(rows) == Row("third", "line 3", None, 19, 3)
        ending.cancel()
        os.close(writer)


def test_the_text_of_a_json_line_is_a_field() -> None:
    raw = b'\xef\xbb\xbf{"t": "one", "id": 1}\n\nnot json\n["t"]\n{"t": 5}\n'
    raw += b'{"t": "\\ud83e"}\r\n{"t": "two\\nlines"}\n{"u": 1}'
    rows = read(raw, Form("jsonl", "t"))
    assert [(row.text, row.place) for row in rows if row.problem is None] == [
        ("one", "line 1"),
        ("\ud83e", "line 6"),
        ("two\nlines", "line 7"),
    ]
    assert rows[0].record == {"t": "one", "id": 1}
    assert [(row.line, row.problem, row.text) for row in rows if row.problem is not None] == [
        (3, "is not JSON: Expecting value at character 1", UNSENDABLE),
        (4, "is not a JSON object with a text in its field 't'", UNSENDABLE),
        (5, "has a number in its field 't', where a text belongs", UNSENDABLE),
        (8, "has no field 't'", UNSENDABLE),
    ]


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"t": ' + b"9" * 5000 + b"}"])
def test_json_that_python_cannot_take_is_a_problem_of_its_line(raw: bytes) -> None:
    (row,) = read(raw, Form("jsonl", "t"))
    assert row.problem is not None


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("a.b", "nested"),
        ("messages.1.content", "second"),
        ("messages.-1.content", "last"),
        ("x.y", "a name with a dot"),
        ("messages.3.content", None),
        ("messages.first", None),
        ("a.b.c", None),
    ],
)
def test_a_field_may_be_a_path(field: str, text: str | None) -> None:
    raw = (
        b'{"a": {"b": "nested"}, "x.y": "a name with a dot", '
        b'"messages": [{"content": "first"}, {"content": "second"}, {"content": "last"}]}'
    )
    (row,) = read(raw, Form("jsonl", field))
    assert (row.text if row.problem is None else None) == text


def test_the_text_of_a_csv_line_is_a_column() -> None:
    raw = b'\xef\xbb\xbfid,t\r\n1,"two\r\nlines, ""quoted"""\r\n\r\n2\r\n3,\xff\r\n' + b"4," + b"x" * 300_000
    rows = read(raw, Form("csv", "t"))
    assert [row.text for row in rows[:3]] == ['two\r\nlines, "quoted"', UNSENDABLE, UNSENDABLE]
    assert [row.place for row in rows] == ["line 2", "line 5", "line 6", "line 7"]
    assert [row.record["id"] for row in rows if row.record] == ["1", "2", "3", "4"]
    assert rows[-1].bytes_read == len(raw)
    assert rows[1].problem == "has 1 columns where the first line has 2"
    assert (rows[2].problem or "").startswith("is not UTF-8 in its column 't'; convert")
    (row,) = read(b"id,t\ncaf\xe9,fine\n", Form("csv", "t"))
    assert (row.text, row.problem) == ("fine", None)
    assert read(b"", Form("csv", "t")) == []


def test_a_delimiter_of_ones_own() -> None:
    assert [row.text for row in read(b"id;t\n1;a,b\n", Form("csv", "t", ";"))] == ["a,b"]
    assert form_of("x.tsv", "csv", "t", None).delimiter == "\t"
    assert form_of("x.csv", "csv", "t", ";").delimiter == ";"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.csv", "csv"),
        ("a.TSV.gz", "csv"),
        ("a.parquet", "parquet"),
        ("a.jsonl", "jsonl"),
        ("a.log.gz", "jsonl"),
        ("-", "jsonl"),
    ],
)
def test_the_form_of_a_file_is_told_by_its_name(path: str, kind: str) -> None:
    assert form_of(path, None, "t", None).kind == kind


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"id,t\n1,x\n", "standard input has no column 'text'; its first line names 'id', 't'$"),
        (b"id;text\n1;x\n", "no column 'text'; its first line names 'id;text'; .* --delimiter"),
        (b"text,a,a\n", "two columns 'a'"),
        (b"id, text\n1,x\n", "its first line names 'id', ' text'$"),
        (b'text\nx\n"open\nand\ron\n', "line 3 has a quote that is never closed: all lines from there on"),
        (b'id,"text\n1,x\n', "line 1 has a quote that is never closed"),
    ],
)
def test_csv_that_cannot_be_is_an_error(raw: bytes, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read(raw, Form("csv"))


@pytest.mark.parametrize(
    ("raw", "items"),
    [
        (b'[\n {"t": "a"},\n {"t": "b"}\n]', ".[]"),
        (b'\n[{"t": "a"}, {"t": "b"}]\n', ".[]"),
        (b'\xef\xbb\xbf{\r\n  "t": "a"\n}', "."),
    ],
)
def test_one_json_value_in_many_lines_is_an_error(raw: bytes, items: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", raw)
    with pytest.raises(InputError, match="holds one JSON value, not one in each line; ") as caught:
        list(file_rows([(path, form_of(path, None, "t", None))]))
    assert str(caught.value).endswith(f"jq -c '{items}' '{path}'")
    assert [bool(row.problem) for row in read(b'{"t": "a"}\n' + raw, Form("jsonl", "t"))][:2] == [False, True]


def test_files_follow_each_other(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, b"one\ntwo") for name in "ab"]
    rows = list(file_rows([(path, Form()) for path in paths]))
    assert [row.place for row in rows] == [f"{path} line {number}" for path in paths for number in (1, 2)]
    assert [(row.file, row.line) for row in rows] == [(path, number) for path in paths for number in (1, 2)]
    assert [row.bytes_read for row in rows] == [4, 7, 11, 14]
    assert input_bytes(paths) == 14
    assert input_bytes([*paths, os.devnull]) is None
    assert input_bytes([str(tmp_path / "none")]) is None


def test_files_of_one_csv_have_the_same_columns(tmp_path: Path) -> None:
    def file(name: str, header: bytes) -> tuple[str, Form]:
        return write(tmp_path / name, header + b"\n1,2\n"), Form("csv", "t")

    first, swapped, other = file("a", b"id,t"), file("b", b"t,id"), file("c", b"t,label")
    check_columns([first, swapped, ("-", Form("csv", "t"))])
    with pytest.raises(InputError, match=r"c has the columns t, label, and .*a has id, t: one CSV cannot hold both"):
        check_columns([first, swapped, other])


def test_packed_files_are_unpacked(tmp_path: Path) -> None:
    packed = gzip.compress("\ufeffdésolé\nno\n".encode())
    path = write(tmp_path / "a.gz", packed)
    rows = list(file_rows([(path, Form())]))
    assert [row.text for row in rows] == ["désolé", "no"]
    assert rows[-1].bytes_read == len(packed) == input_bytes([path])
    assert read_document(path) == "désolé\nno\n"


LONG = gzip.compress(bytes(os.urandom(100_000).hex(), "ascii"))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("Sorry.\n".encode("utf-16"), "is UTF-16, and UTF-8 is read; convert it first: iconv -f UTF-16 -t UTF-8 '"),
        ("Sorry.\n".encode("utf-16-le"), "is UTF-16LE, and"),
        ("Sorry, no.\n".encode("utf-16-be"), "is UTF-16BE, and"),
        ("Sorry.\n".encode("utf-32"), "is UTF-32, and"),
        (gzip.compress("Sorry.\n".encode("utf-16")), "is UTF-16, and"),
        (b"PAR1\x15\x04", "is a Parquet file, not text; name the column that holds the texts with --parquet"),
        (b"PK\x03\x04more", "is a zip archive"),
        (b"\x28\xb5\x2f\xfdmore", "is packed with zstd"),
        (b"\x7fELF\0\xff\xfe\0", "is binary, not text"),
        (LONG[:-9], "is a damaged gzip file"),
        (LONG[:50_000] + b"x" * 9 + LONG[50_009:], "is a damaged gzip file"),
    ],
    ids=["utf-16", "utf-16-le", "utf-16-be", "utf-32", "packed", "parquet", "zip", "zstd", "binary", "cut", "damaged"],
)
def test_what_is_no_text_is_named(tmp_path: Path, raw: bytes, told: str) -> None:
    path = write(tmp_path / "given", raw)
    for form in (Form(), Form("csv", "t"), Form("jsonl", "t")):
        with pytest.raises(InputError) as caught:
            list(file_rows([(path, form)]))
        assert str(caught.value).startswith(f"{path} {told}")
    with pytest.raises(InputError):
        read_document(path)


@pytest.mark.parametrize("raw", [b"a\0b\nc\n", "日本語".encode()[:-1], b"caf\xe9\n", b"\0\n"])
def test_odd_text_is_text(tmp_path: Path, raw: bytes) -> None:
    assert list(file_rows([(write(tmp_path / "given", raw), Form())]))


def test_a_document_is_utf_8(tmp_path: Path) -> None:
    assert read_document(write(tmp_path / "good", "\ufeffdésolé\n".encode())) == "désolé\n"
    with pytest.raises(InputError, match=r"bad is not UTF-8: .* at byte 1"):
        read_document(write(tmp_path / "bad", b"d\xe9sol\xe9"))


def test_arguments_are_numbered() -> None:
    assert list(argument_rows(["a", "b"])) == [Row("a", "argument 1", None, 1), Row("b", "argument 2", None, 2)]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, the client's extra `parquet`, is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = str(tmp_path / "real.parquet")
    column = pyarrow.array(["one", None, "three"])
    nested = pyarrow.array([{"text": "a"}, {"text": "b"}, {"text": None}])
    parquet.write_table(pyarrow.table({"id": [1, 2, 3], "t": column, "n": nested}), path)
    rows = list(file_rows([(path, Form("parquet", "t"))]))
    assert [(row.place, row.text, row.problem) for row in rows] == [
        (f"{path} row 1", "one", None),
        (f"{path} row 2", UNSENDABLE, "has null in its field 't', where a text belongs"),
        (f"{path} row 3", "three", None),
    ]
    assert rows[0].record == {"id": 1, "t": "one", "n": {"text": "a"}}
    assert rows[-1].bytes_read == input_bytes([path])
    assert [row.text for row in file_rows([(path, Form("parquet", "n.text"))])][:2] == ["a", "b"]
    with pytest.raises(InputError, match="no column 'x'; it has id, t, n"):
        list(file_rows([(path, Form("parquet", "x"))]))
    with pytest.raises(InputError, match="has the columns id, t, n, and"):
        check_columns([(write(tmp_path / "a.csv", b"id,t\n"), Form("csv", "t")), (path, Form("parquet", "t"))])
    for raw in (b"", b"text\n", Path(path).read_bytes()[:-20]):
        with pytest.raises(InputError, match="cannot be read as Parquet"):
            list(file_rows([(write(tmp_path / "broken", raw), Form("parquet", "t"))]))
    with pytest.raises(InputError, match="standard input"):
        list(file_rows([("-", Form("parquet", "t"))]))
