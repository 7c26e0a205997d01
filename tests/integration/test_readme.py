"""What README.md shows is what happens."""

import doctest
import json
import os
import re
import subprocess

import numpy as np
import pytest

from rejection_server.host import Server
from support.repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
DEFAULT = "127.0.0.1:8001"

SCORE = re.compile(r"\b0\.\d{4}\b")


def is_alike(said: str, got: str) -> bool:
    """Whether both are equal but for what int8 products differ by from processor to processor."""
    mine, theirs = ([float(score) for score in SCORE.findall(text)] for text in (said, got))
    return SCORE.sub("", said) == SCORE.sub("", got) and np.allclose(mine, theirs, rtol=0, atol=0.02)


class Checker(doctest.OutputChecker):
    """Takes alike for equal."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, got, optionflags) or is_alike(want, got)


def test_the_python_session(server: Server) -> None:
    (session,) = re.findall(r"```pycon\n(.*?)```", README, re.DOTALL)
    test = doctest.DocTestParser().get_doctest(session.replace(DEFAULT, server.grpc_address), {}, "README", None, 0)
    assert len(test.examples) == 4
    result = doctest.DocTestRunner(Checker(), optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert result.failed == 0


def test_the_classify_command(server: Server) -> None:
    ((command, output),) = re.findall(r"\$ (scripts/classify .*?)\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={**os.environ, "REJECTION_URL": server.grpc_address},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert is_alike(output, done.stdout), done.stdout


@pytest.mark.parametrize("script", sorted(set(re.findall(r"scripts/([a-z_-]+(?:\.py)?)", README))))
def test_every_script_named_exists(script: str) -> None:
    assert (ROOT / "scripts" / script).is_file()


def test_every_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "client" / "README.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_models_figures_are_those_of_its_card() -> None:
    card = (ROOT / "docs" / "model_card.md").read_text(encoding="utf-8")
    facts = json.loads((ROOT / "model_repository" / "classifier" / "1" / "model.json").read_text(encoding="utf-8"))
    for source, f1 in facts["f1"].items():
        row = next(line for line in card.splitlines() if line.startswith(f"| {source} "))
        assert round(float(row.split("|")[7]), 4) == f1, source
