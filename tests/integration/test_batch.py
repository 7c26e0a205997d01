"""Runs over many rows: a server that restarts, output files, and going on where an earlier run was stopped."""

import csv
import gzip
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.client_servers import make_repository, start_servers, stop_servers
from rejection_client import ClientConfig, DeadlineExceededError, RejectionClient, RejectionError
from rejection_server.host import Server
from support.limited import limited


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("batch"))


@pytest.fixture
def restarting(repository: Path) -> Iterator[list[Server]]:
    """A server in a list, where a test may put its successor."""
    servers = start_servers(repository)
    yield servers
    stop_servers(servers)


def port_of(server: Server) -> int:
    return int(server.grpc_address.rsplit(":", 1)[1])


def restart(servers: list[Server], repository: Path, after_s: float) -> None:
    """The server dies, and comes back at the same address so much later."""
    port = port_of(servers[0])
    stop_servers(servers)
    time.sleep(after_s)
    servers[:] = start_servers(repository, port=port)


def test_a_request_outlives_a_restart_that_is_longer_than_its_deadline(
    restarting: list[Server], repository: Path
) -> None:
    address = restarting[0].grpc_address
    with RejectionClient(address, ClientConfig(timeout_s=1.0, outage_s=60)) as client:
        assert client.classify("one").label == "NORMAL"
        again = threading.Thread(target=restart, args=(restarting, repository, 2.5))
        again.start()
        again.join(0.5)
        results = [result.unwrap().label for result in client.stream(["two", "sorry"])]
        again.join()
        assert results == ["NORMAL", "REJECTION"]
        stop_servers(restarting)
        assert not client.is_ready()
        with pytest.raises(RejectionError), RejectionClient(address, ClientConfig(outage_s=60)) as stranger:
            stranger.classify("a server that never was is not waited for")


def test_a_request_outlives_a_machine_that_gives_no_sign_of_life(restarting: list[Server]) -> None:
    """As one without power: its address refuses nothing, it is silent."""
    server = restarting[0]
    pid = server.pid
    assert pid is not None
    with RejectionClient(server.grpc_address, ClientConfig(timeout_s=1.0, outage_s=60)) as client:
        assert client.classify("one").label == "NORMAL"
        os.kill(pid, signal.SIGSTOP)
        try:
            back = threading.Timer(4.0, os.kill, (pid, signal.SIGCONT))
            back.start()
            assert client.classify("sorry").label == "REJECTION"
            back.join()
        finally:
            os.kill(pid, signal.SIGCONT)
        with pytest.raises(DeadlineExceededError):
            client.classify("sleep 3 a server that is alive, and slow")


def command(address: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "rejection_client", "classify", "--url", address, *arguments]


def classify(address: str, *arguments: str, code: int = 0) -> str:
    """What the command says on standard error; it writes nothing else."""
    done = subprocess.run(command(address, *arguments), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    return done.stderr


def json_input(path: Path, count: int) -> Path:
    """Rows of which one in a hundred has no text, and every other is a refusal."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            text = None if number % 100 == 50 else ("Sorry, no." if number % 2 else f"Sure, {number % 500}.")
            file.write(json.dumps({"id": number, "answer": text}) + "\n")
    return path


def result_lines(path: Path) -> list[dict[str, Any]]:
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def steady(repository: Path) -> Iterator[str]:
    """The address of a server that stays."""
    servers = start_servers(repository)
    yield servers[0].grpc_address
    stop_servers(servers)


@pytest.mark.parametrize(("name", "how"), [("out.jsonl", "kill"), ("out.jsonl.gz", "interrupt"), ("out.csv", "kill")])
def test_a_run_that_was_killed_goes_on(steady: str, tmp_path: Path, name: str, how: str) -> None:
    given, out, whole = json_input(tmp_path / "in.jsonl", 6_000), tmp_path / name, tmp_path / f"whole.{name}"
    asked = ("--jsonl", "answer", "--file", str(given))
    signalled = signal.SIGKILL if how == "kill" else signal.SIGINT
    with subprocess.Popen(command(steady, *asked, "--output-file", str(out)), stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (process.stderr and process.stderr.readline()):  # told of a bad row
            pass
        time.sleep(0.2)
        process.send_signal(signalled)
    assert process.returncode == (130 if how == "interrupt" else -signalled)
    before = out.stat().st_size
    told = classify(steady, *asked, "--output-file", str(out), code=1)
    assert told == f"rejection: {out} exists; go on with it with --resume, or name another --output-file\n"
    assert out.stat().st_size == before
    told = classify(steady, *asked, "--output-file", str(out), "--resume", code=1)
    assert f"rejection: {out} has " in told.splitlines()[0]
    assert 0 < len(told.splitlines()) - 1 < 60, "the rows that fail are told once"
    classify(steady, *asked, "--output-file", str(whole), code=1)
    if name.endswith("csv"):
        assert out.read_bytes() == whole.read_bytes()
    else:
        lines = result_lines(out)
        assert lines == result_lines(whole)
        assert [line["record"]["id"] for line in lines] == [*range(6_000)]
        assert [line["line"] for line in lines if "error" in line] == [*range(51, 6_000, 100)]
    before = out.stat().st_size
    classify(steady, *asked, "--output-file", str(out), "--resume")
    assert out.stat().st_size == before, "a run that is done is gone on with by doing nothing"


def test_a_run_outlives_a_restart_of_the_server(restarting: list[Server], repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv.gz"
    begun = tmp_path / "begun"
    texts = [f"sleep 0.05 {begun}", *(f"sleep 0.05 {number}" for number in range(59)), "bad", "sorry"]
    asked = command(restarting[0].grpc_address, "--timeout", "2", "--output-file", str(out), "--concurrency", "1")
    with subprocess.Popen(asked, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write("\n".join(texts[:30]) + "\n")
        process.stdin.flush()
        while not begun.exists():
            time.sleep(0.05)
        again = threading.Thread(target=restart, args=(restarting, repository, 3.0))
        again.start()
        process.stdin.write("\n".join(texts[30:]))
        process.stdin.close()
        told = process.stderr.read()
        again.join()
    assert process.returncode == 1, "of the bad text"
    assert "is set aside" in told
    assert told.splitlines()[-1].startswith("rejection: line 61")
    with gzip.open(out, "rt") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == texts
    assert [bool(row["error"]) for row in rows] == [text == "bad" for text in texts]


def test_a_run_whose_server_stays_away_says_how_to_go_on(restarting: list[Server], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    asked = command(restarting[0].grpc_address, "--wait", "1", "--output-file", str(out))
    with subprocess.Popen(asked, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write("one\n")
        process.stdin.flush()
        while not (out.exists() and out.stat().st_size):
            time.sleep(0.05)
        stop_servers(restarting)
        process.stdin.write("two\n")
        process.stdin.close()
        told = process.stderr.read().splitlines()[-1]
    assert process.returncode == 1
    assert told.startswith("rejection: cannot reach ")
    assert told.endswith("(1 texts were classified before; --resume goes on after them)")
    assert [line["text"] for line in result_lines(out)] == ["one"]


def test_memory_does_not_grow_with_the_rows(steady: str, tmp_path: Path) -> None:
    peaks: list[float] = []
    for count in (5_000, 200_000):
        given, out = json_input(tmp_path / f"{count}.jsonl", count), tmp_path / f"{count}.csv.gz"
        asked = ("--jsonl", "answer", "--file", str(given), "--output-file", str(out))
        with subprocess.Popen(command(steady, *asked), stderr=subprocess.DEVNULL) as process:
            peaks.append(0.0)
            while process.poll() is None:
                if found := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text("ascii")):
                    peaks[-1] = int(found[1]) / 1024  # a process that ended has none
                time.sleep(0.1)
        with gzip.open(out, "rb") as file:
            assert sum(1 for _ in file) == count + 1
    assert 0 < peaks[1] - peaks[0] < 30, f"MiB {peaks}"


def test_results_as_parquet(steady: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow, the client's extra `parquet`, is not installed")
    given, out = json_input(tmp_path / "in.jsonl", 300), tmp_path / "out.parquet"
    asked = ("--field", "answer", "--file", str(given), "--output-file", str(out))
    assert classify(steady, *asked, code=1).count("\n") == 3
    rows = parquet.read_table(out).to_pylist()
    assert [row["line"] for row in rows] == [*range(1, 301)]
    assert {name: rows[1][name] for name in ("text", "label", "is_rejection", "error")} == {
        "text": "Sorry, no.",
        "label": "REJECTION",
        "is_rejection": True,
        "error": None,
    }
    assert abs(rows[1]["score"] - 0.9) < 1e-6
    assert (rows[50]["text"], rows[50]["score"]) == (None, None)
    assert "line 51" in rows[50]["error"]
    assert json.loads(rows[1]["record"]) == {"id": 1, "answer": "Sorry, no."}
    told = classify(steady, *asked, "--resume", code=1)
    assert "cannot be gone on with, since the index of a Parquet file is written at its end" in told
    assert told.count("\n") == 1


def test_a_full_disk_names_the_file(steady: str, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    given, out = json_input(tmp_path / "in.jsonl", 3000), tmp_path / "out.jsonl"
    asked = command(steady, "--jsonl", "answer", "--file", str(given), "--output-file", str(out))
    limit = 100_003
    done = subprocess.run(
        limited(asked, resource.RLIMIT_FSIZE, limit), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"rejection: File too large ({out})"
    assert out.stat().st_size == limit
    classify(steady, *asked[6:], "--resume", code=1)
    assert [line["record"]["id"] for line in result_lines(out)] == [*range(3000)]
