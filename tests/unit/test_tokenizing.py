"""The tokenizer model's logic, with the bundled tokenizer and without Triton."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from support.repository import REPOSITORY
from support.repository import tokenizing as tokenizing_module

FOLDER = REPOSITORY / "tokenizer" / "1"
tokenizing = tokenizing_module()
CLS, SEP = 101, 102


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizing.TextTokenizer(FOLDER / "tokenizer.json", 512)


def test_known_ids(tokenizer: Any) -> None:
    assert tokenizer.token_ids(["Hello world!"]) == [[CLS, 7592, 2088, 999, SEP]]


def test_counts_are_those_before_truncation(tokenizer: Any) -> None:
    (ids,) = tokenizer.token_ids(["word " * 2000])
    assert len(ids) == 2002
    assert len(tokenizer.truncate(ids, 10_000)) == 512


@pytest.mark.parametrize("limit", [3, 4, 17, 128, 511, 512])
def test_truncation_is_that_of_the_tokenizers_library(tokenizer: Any, limit: int) -> None:
    reference = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    reference.no_padding()
    reference.enable_truncation(limit)
    for text in ("", "Hi", "Sorry, I can't help with that. " * 40, "word " * 600):
        (ids,) = tokenizer.token_ids([text])
        assert tokenizer.truncate(ids, limit) == reference.encode(text).ids


@pytest.mark.parametrize("limit", [2, 3, 17, 512])
def test_a_tokenizer_that_cuts_on_the_left_keeps_the_end(tmp_path: Path, limit: int) -> None:
    reference = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    reference.no_padding()
    reference.enable_truncation(limit, direction="left")
    reference.save(str(tmp_path / "tokenizer.json"))
    tokenizer = tokenizing.TextTokenizer(tmp_path / "tokenizer.json", 512)
    for text in ("", "Hi", "first of all, " + "word " * 600 + "and last"):
        (ids,) = tokenizer.token_ids([text])
        assert tokenizer.truncate(ids, limit) == reference.encode(text).ids


def test_a_model_that_needs_its_end_token_gets_it() -> None:
    tokenizer = tokenizing.TextTokenizer(FOLDER / "tokenizer.json", 512, 2)
    (ids,) = tokenizer.token_ids(["some words here"])
    assert [tokenizer.truncate(ids, limit) for limit in (1, 2)] == [[CLS, SEP], [CLS, SEP]]
    assert tokenizer.truncate([CLS], 1) == [CLS], "what is shorter by itself stays"


@pytest.mark.parametrize(("limit", "expected"), [(1, [CLS]), (2, [CLS, SEP])])
def test_limits_below_the_special_tokens(tokenizer: Any, limit: int, expected: list[int]) -> None:
    (ids,) = tokenizer.token_ids(["some words here"])
    assert tokenizer.truncate(ids, limit) == expected


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\x00\x01", "🙂👩‍👩‍👧", "ж" * 300, "a" * 5000])
def test_any_text_gives_ids_of_the_vocabulary(tokenizer: Any, text: str) -> None:
    (ids,) = tokenizer.token_ids([text])
    assert ids
    assert ids[0] == CLS
    assert ids[-1] == SEP
    assert all(0 <= i < 30522 for i in ids)


def test_a_tokenizer_without_special_tokens_still_gives_one_id(tmp_path: Path) -> None:
    plain = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.save(str(tmp_path / "tokenizer.json"))
    mine = tokenizing.TextTokenizer(tmp_path / "tokenizer.json", 8)
    assert mine.token_ids(["", "b a"]) == [[0], [1, 0]]
    assert mine.truncate([1, 0], 1) == [1]


@pytest.mark.parametrize("template", ["!", "$A ! $A"])
def test_a_tokenizer_that_rewrites_the_text_is_refused(tmp_path: Path, template: str) -> None:
    odd = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2, "!": 3}, unk_token="?"))
    odd.pre_tokenizer = pre_tokenizers.Whitespace()
    odd.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("!", 3)])
    odd.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="cannot be served"):
        tokenizing.TextTokenizer(tmp_path / "tokenizer.json", 8)


def test_decoding_names_the_row_and_the_byte() -> None:
    with pytest.raises(tokenizing.TextError, match="text in row 2 is not valid UTF-8: invalid start byte at byte 3"):
        tokenizing.decode([b"fine", "ünï".encode(), b"abc\xff"])


def test_lone_surrogates_are_not_utf8() -> None:
    with pytest.raises(tokenizing.TextError, match="text in row 0 is not valid UTF-8"):
        tokenizing.decode(["\ud800".encode("utf-8", "surrogatepass")])


def test_the_size_limit_is_one_mebibyte() -> None:
    assert list(tokenizing.decode([b"a" * 1048576])) == ["a" * 1048576]
    with pytest.raises(tokenizing.TextError, match="text in row 1 has 1048577 bytes; at most 1048576"):
        tokenizing.decode([b"", b"a" * 1048577])


def test_lengths_below_one_are_refused() -> None:
    tokenizing.check_lengths([1, 10_000])
    with pytest.raises(tokenizing.TextError, match="max_length in row 1 is 0"):
        tokenizing.check_lengths([5, 0])


def test_filled_rows() -> None:
    np.testing.assert_array_equal(tokenizing.filled([[1, 2, 3], [4]]), [[1, 2, 3], [4, -1, -1]])
    assert tokenizing.filled([[7, 8]]).dtype == np.int64


def test_a_tokenizer_that_cuts_on_the_left_reads_no_part_of_a_text(tmp_path: Path) -> None:
    reference = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    reference.no_padding()
    reference.enable_truncation(128, direction="left")
    reference.save(str(tmp_path / "tokenizer.json"))
    tokenizer = tokenizing.TextTokenizer(tmp_path / "tokenizer.json", 128)
    text = "word " * 6000 + "and last"
    (ids,), (count,) = tokenizer.read([text], [128])
    assert ids == reference.encode(text).ids
    assert count == 6004, "all of them, since all are read"
    with pytest.raises(tokenizing.TextError, match="at most 65536 are accepted"):
        tokenizer.read(["word " * 20_000], [128])
