"""Models that the benchmark makes: each in a folder that is complete when it appears."""

from pathlib import Path

import pytest

from bench.cli import main
from bench.models import find_model, made_at


def test_of_two_that_aremade_at_once_the_first_one_stays(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "one"
    with made_at(folder) as first:
        (first / "by").write_text("first")
        with made_at(folder) as second:
            (second / "by").write_text("second")
    assert (folder / "by").read_text() == "second", "it was complete before the other"
    assert list(folder.parent.iterdir()) == [folder]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"), made_at(tmp_path / "models" / "one"):
        raise OSError("disk full")
    assert list((tmp_path / "models").iterdir()) == []


def test_pytorch_is_asked_for_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("bench.models.BUILD", tmp_path)
    monkeypatch.setattr("bench.models.has_torch", lambda: False)
    assert main(["--models", "distilroberta", "--peers", "none"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("scripts/bench: distilroberta is made with PyTorch, which is not installed: ")
    assert said.endswith("run scripts/install bench export first\n")
    assert list(tmp_path.iterdir()) == []


def test_the_bundled_model_is_the_committed_file() -> None:
    model = find_model("bundled", print)
    assert model.reference == model.graphs["int8"] == model.served("int8")
    assert model.labels == ("NORMAL", "REJECTION")
