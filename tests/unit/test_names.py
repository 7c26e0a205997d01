"""The names of a classifier's models."""

from pathlib import Path

import pytest

from rejection_server.names import Names, classifier_name, classifiers_in
from rejection_server.prepare.cli import main
from support.repository import REPOSITORY


def test_the_default_goes_without_a_prefix() -> None:
    assert Names().models == ("rejection", "scoring", "tokenizer", "classifier")
    assert Names("a-b").models == ("a-b", "a-b_scoring", "a-b_tokenizer", "a-b_classifier")


@pytest.mark.parametrize(
    "name", ["rejection", "toxicity", "prompt_injection", "2-b", "a" * 64, "classifiers", "scoring_2"]
)
def test_names_that_a_classifier_may_have(name: str) -> None:
    assert classifier_name(name) == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "is no name"),
        ("Toxicity", "is no name"),
        ("_a", "is no name"),
        ("a b", "is no name"),
        ("../a", "is no name"),
        ("a\n", "is no name"),
        ("a" * 65, "1 to 64"),
        ("tokenizer", "those that end in tokenizer are of its parts"),
        ("scoring", "those that end in scoring"),
        ("toxicity_classifier", "those that end in classifier"),
        ("rejection_scoring", "those that end in scoring"),
    ],
)
def test_names_that_none_may_have(name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=says):
        classifier_name(name)
    with pytest.raises(SystemExit, match="2"):
        main(["no-such-model", "--output", str(tmp_path / "served"), f"--name={name}"])
    assert says in capsys.readouterr().err


def test_classifiers_are_found_by_their_folders(tmp_path: Path) -> None:
    assert classifiers_in(REPOSITORY) == (Names(),)
    assert classifiers_in(tmp_path / "none") == ()
    for model in (*Names("b").models, "a_classifier", "rejection_classifier", "tokenizer", "other"):
        (tmp_path / model).mkdir()
    (tmp_path / "c_classifier").touch()
    assert classifiers_in(tmp_path) == (Names("a"), Names("b")), "rejection's own goes without a prefix"
