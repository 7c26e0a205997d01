"""The example for Ray on a real Ray of this machine, against a real server."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rejection_client import RejectionClient
from rejection_server.host import ServeOptions, Server
from support.repository import REPOSITORY, ROOT

pytest.importorskip("ray", reason="the package ray is not installed: scripts/install ray")
pa = pytest.importorskip("pyarrow", reason="the package pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet")

TEXTS = ["Sorry, but I can't assist with that.", None, "Boil the water first.", "x" * 2_000_000, ""]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=None, cores=1)) as server:
        yield server


def classify(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run the example; Ray's files are gone afterwards, in a folder whose name is short enough for its sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        return subprocess.run(
            [sys.executable, ROOT / "deploy" / "ray" / "classify.py", "--workers", "1", *arguments],
            env={**os.environ, "RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=600,
        )


def test_each_row_has_its_answer_or_its_error(server: Server, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": range(5), "answer": TEXTS}), tmp_path / "answers.parquet")

    done = classify(
        tmp_path / "answers.parquet", tmp_path / "scored", "--column", "answer", "--url", server.grpc_address
    )

    assert done.returncode == 1, done.stderr
    assert "5 rows" in done.stdout
    assert "2 of them with an error" in done.stdout
    rows = parquet.read_table(tmp_path / "scored").sort_by("id").to_pylist()
    assert [(row["id"], row["answer"]) for row in rows] == list(enumerate(TEXTS))
    with RejectionClient(server.grpc_address) as client:
        for row in rows:
            if row["id"] in (1, 3):
                assert row["label"] is None
            else:
                wanted = client.classify(row["answer"])
                assert (row["label"], row["error"]) == (wanted.label, None)
                assert {name: row[name] for name in wanted.scores} == dict(wanted.scores)
    assert rows[1]["error"] == "there is no text"
    assert "1048576" in rows[3]["error"].replace(",", "")


@pytest.mark.parametrize(
    ("column", "said"), [("text", "has no column 'text'; it has answer, label"), ("answer", "a column 'label' already")]
)
def test_a_table_that_does_not_fit_is_told_in_one_sentence(
    server: Server, tmp_path: Path, column: str, said: str
) -> None:
    (tmp_path / "answers.csv").write_text("answer,label\nNo.,a\n")
    done = classify(tmp_path / "answers.csv", tmp_path / "scored", "--column", column, "--url", server.grpc_address)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_no_server_is_told_in_one_sentence_before_anything_starts(tmp_path: Path) -> None:
    done = classify(tmp_path / "answers.csv", tmp_path / "scored", "--url", "127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("classify.py: ")
    assert len(done.stderr.splitlines()) == 1
