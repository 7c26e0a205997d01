"""Whatever a model's folder holds, `prepare` ends with a repository or with one sentence; the fuzzer would notice."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the folders are made with PyTorch: scripts/install export")

from faults import folders, prepare_fuzz

SEED = 7
FOLDERS = 25
"""One for each change, which take turns."""


def fuzz(tmp_path: Path, *options: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Exit status, words and runs of the fuzzer."""
    result = tmp_path / "result.jsonl"
    command = [sys.executable, "-m", "faults.prepare_fuzz", "--seed", str(SEED), "--json", str(result), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr, [json.loads(line) for line in result.read_text().splitlines()]


def test_every_folder_ends_as_a_repository_or_a_sentence(tmp_path: Path) -> None:
    status, words, runs = fuzz(tmp_path, "--folders", str(FOLDERS))
    assert [run for run in runs if run["findings"]] == []
    assert status == 0, words
    assert len(runs) == FOLDERS
    assert {run["status"] for run in runs} == {0, 1}, "some can be prepared, most not"
    assert {run["broken"]["change"] for run in runs} == set(folders.CHANGES)


@pytest.mark.parametrize(
    ("said", "finding"),
    [
        ("[  0.1 s] begun\nTraceback (most recent call last)\n", "traceback"),
        ("rejection-server prepare: \x1b[31mred\x1b[0m\n", "escape codes"),
        ("2026-11-26 [E:onnxruntime:, inference_session.cc:42] failed\n", "no sentence"),
        ("rejection-server prepare: it failed\n  in two lines\n", "more than a sentence"),
        ("rejection-server prepare: this is a fault of rejection-server\n", "unforeseen"),
    ],
)
def test_what_is_not_for_a_person_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, finding: str
) -> None:
    (tmp_path / "model").mkdir()

    def main(_arguments: list[str]) -> int:
        sys.stderr.write(said)
        (tmp_path / ".served.preparing-1").mkdir()
        return 1

    monkeypatch.setattr("rejection_server.prepare.cli.main", main)
    broken = folders.Broken(0, "weights", "untouched", "nothing", allow_pickle=False)
    ended = prepare_fuzz.run(broken, tmp_path / "model", tmp_path / "served")
    assert finding in ended.findings
    assert "files left behind" in ended.findings


def test_the_command_itself_is_judged_alike(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    broken = folders.Broken(0, "weights", "untouched", "all gone", allow_pickle=False)
    ended = prepare_fuzz.run(broken, tmp_path / "model", tmp_path / "served", by_command=True)
    assert (ended.status, ended.findings) == (1, ())
    assert "the model has no config.json" in ended.last


def test_a_folder_follows_from_seed_and_number(tmp_path: Path) -> None:
    bases = folders.make_bases(tmp_path / "bases")
    for number in range(60):
        one, other = (folders.make(SEED, number, bases, tmp_path / f"{number}-{turn}") for turn in (1, 2))
        assert one == other
