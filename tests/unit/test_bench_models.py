"""Models that the benchmark makes: each in a folder that is complete when it appears."""

from typing import Never

import pytest

from bench.models import _made_at


def test_of_two_that_are_made_at_once_the_first_one_stays(tmp_path) -> None:
    folder = tmp_path / "models" / "one"
    with _made_at(folder) as first:
        (first / "by").write_text("first")
        with _made_at(folder) as second:
            (second / "by").write_text("second")
    assert (folder / "by").read_text() == "second", "it was complete before the other"
    assert list(folder.parent.iterdir()) == [folder]


def test_what_fails_leaves_nothing(tmp_path) -> Never:
    with pytest.raises(OSError, match="disk full"), _made_at(tmp_path / "models" / "one"):
        raise OSError("disk full")
    assert list((tmp_path / "models").iterdir()) == []
