"""Files of tokens and keys, and comparing with them."""

import os
from pathlib import Path

import pytest

from rejection_server.guard.keys import SecretError, is_one_of, read_secrets

ONE, OTHER = "a-token-of-20-chars.", "bm90IGEgc2VjcmV0/+=="


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    return path


def test_one_a_line_and_empty_lines_do_not_count(file: Path) -> None:
    file.write_text(f"\n{ONE}\n\n  {OTHER}\r\n")
    assert read_secrets(file) == (ONE.encode(), OTHER.encode())
    file.chmod(0o640)
    assert len(read_secrets(file)) == 2, "a group of users may read it"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty: write a secret of 16 characters or more"),
        (b" \n\n", "is empty"),
        (b"short\n", "has a secret of 5 characters, its number 1: take 16 or more"),
        (ONE.encode() + b"\n15 characters..", "has a secret of 15 characters, its number 2"),
        (b"two words of a secret", "has others than letters"),
        (b"x" * 513, "longer than 512 characters"),
        (b"\xff" * 20, "is no text"),
    ],
)
def test_what_is_no_secret(file: Path, content: bytes, words: str) -> None:
    file.write_bytes(content)
    with pytest.raises(SecretError, match=words) as caught:
        read_secrets(file)
    assert str(file) in str(caught.value)
    assert content.decode(errors="replace").strip() == "" or content[:20].decode(errors="replace") not in str(
        caught.value
    )


def test_a_file_that_all_may_read_or_nobody(file: Path, tmp_path: Path) -> None:
    file.write_text(ONE)
    file.chmod(0o604)
    with pytest.raises(SecretError, match=r"can be read by every user of this machine: chmod o-r .*/tokens$"):
        read_secrets(file)
    with pytest.raises(SecretError, match=r"cannot be read \(No such file or directory\)"):
        read_secrets(tmp_path / "none")


def test_the_mark_that_some_editors_begin_a_file_with_is_no_part_of_a_secret(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + ONE.encode() + b"\r\n")
    assert read_secrets(file) == (ONE.encode(),)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(SecretError, match="is no ordinary file: write the secrets into one"):
            read_secrets(path)


def test_a_key_is_one(file: Path) -> None:
    file.write_text(f"{ONE}\n{OTHER}\n")
    with pytest.raises(SecretError, match="has 2 lines: have one key in it"):
        read_secrets(file, only_one=True)


def test_comparing() -> None:
    secrets = (ONE.encode(), OTHER.encode())
    assert all(is_one_of(secret, secrets) for secret in secrets)
    for wrong in (b"", ONE.encode()[:-1], ONE.encode() + b"x", b"\xff" * 20):
        assert not is_one_of(wrong, secrets)
    assert not is_one_of(b"", ())
