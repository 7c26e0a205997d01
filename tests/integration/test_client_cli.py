"""The command `rejection` against the served model."""

import contextlib
import csv
import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, AnyStr

import pytest

from integration.client_servers import Cable
from rejection_client import RejectionClient
from rejection_server.host import Server
from support.repository import ROOT

REFUSAL = "Sorry, but I can't assist with that."
VERBS = ("classify", "document", "health", "info", "watch")
ANSWER = "The capital of France is Paris, a city of two million people on the river Seine."


@pytest.fixture
def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def cable(server: Server) -> Iterator[Cable]:
    cable = Cable(server.grpc_address)
    yield cable
    cable.cut()


def command(*arguments: str) -> list[str]:
    verb = () if arguments[:1] and arguments[0] in VERBS else ("classify",)
    return [sys.executable, "-m", "rejection_client", *verb, *arguments]


def environment(address: str, **more: str) -> dict[str, str]:
    # Without PYTHONUNBUFFERED and its like, which change what is tested here.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**plain, "REJECTION_URL": address, **more}


def run(address: str, *arguments: str, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, *(() if arguments[:1] == ("watch",) else ("--timeout", "30"))),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(address, **more),
    )


@contextlib.contextmanager
def started(address: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command with pipes for its streams, killed at the end."""
    process = subprocess.Popen(
        command(*arguments),
        env=environment(address),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe(stream).close()


def pipe(stream: IO[AnyStr] | None) -> IO[AnyStr]:
    """What the process was started with a pipe for."""
    assert stream is not None
    return stream


def give(process: subprocess.Popen[bytes], raw: bytes) -> None:
    pipe(process.stdin).write(raw)
    pipe(process.stdin).flush()


def take_line(process: subprocess.Popen[bytes], timeout_s: float = 30) -> bytes:
    """The next line of output; unlike readline(), does not wait forever."""
    deadline = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([pipe(process.stdout)], [], [], deadline - time.monotonic())[0], f"no line, only {line!r}"
        byte = os.read(pipe(process.stdout).fileno(), 1)
        assert byte, f"output ended after {line!r}"
        line += byte
    return line


def test_command_prints_a_table(server: Server) -> None:
    done = run(server.grpc_address, REFUSAL, ANSWER)
    assert (done.returncode, done.stderr) == (0, "")
    header, refusal, answer = done.stdout.splitlines()
    assert header.split() == ["LABEL", "P(REJECTION)", "TOKENS", "TEXT"]
    assert refusal.split()[0] == "REJECTION"
    assert float(refusal.split()[1]) > 0.5
    assert refusal.endswith(f"  {REFUSAL}")
    assert answer.split()[0] == "NORMAL"


def test_command_prints_json_lines_in_any_locale(server: Server) -> None:
    done = run(server.grpc_address, "--output", "jsonl", given="désolé 🤷\n\n", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["text"], line["line"]) for line in lines] == [("désolé 🤷", 1), ("", 2)]
    fields = {"text", "line", "label", "score", "is_rejection", "scores", "token_count", "truncated"}
    assert set(lines[0]) == fields


def test_command_streams_its_input(server: Server) -> None:
    with started(server.grpc_address, "--output", "jsonl") as process:
        for text in (REFUSAL, ANSWER):
            give(process, f"{text}\n".encode())
            assert json.loads(take_line(process))["text"] == text
        pipe(process.stdin).close()
        assert process.wait(30) == 0


def test_a_row_that_cannot_be_classified_is_a_row_with_its_error(server: Server) -> None:
    with started(server.grpc_address, "--output", "jsonl") as process:
        out, err = process.communicate(b"one\nt\xffo\n" + b"x" * (1024 * 1024 + 1) + b"\nfour", timeout=60)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["line"] for line in lines] == [1, 2, 3, 4]
    assert [line.get("label") is None for line in lines] == [False, True, True, False]
    assert process.returncode == 1
    said = err.decode().splitlines()
    assert [f"rejection: {lines[1]['error']}", f"rejection: {lines[2]['error']}"] == said
    assert "line 2" in said[0]
    assert "line 3" in said[1]


def test_command_when_the_server_dies_midway(cable: Cable) -> None:
    with started(cable.address, "--output", "jsonl", "--timeout", "2", "--wait", "2") as process:
        give(process, b"one\n")
        assert json.loads(take_line(process))["text"] == "one"
        cable.cut()
        out, err = process.communicate(b"two\nthree\n", timeout=60)
    assert process.returncode == 1
    assert out == b""
    assert " is set aside: " in err.decode().splitlines()[0]
    assert err.decode().splitlines()[-1].startswith(f"rejection: cannot reach {cable.address}: ")
    assert err.decode().endswith("(1 texts were classified before)\n")


@pytest.mark.parametrize("waiting_for", ["input", "the server"])
def test_command_interrupted(cable: Cable, waiting_for: str) -> None:
    with started(cable.address, "--output", "jsonl") as process:
        give(process, b"one\n")
        take_line(process)
        if waiting_for == "the server":
            cable.hold_answers.set()
            give(process, b"two\n")
            assert cable.answer_held.wait(30)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert pipe(process.stdout).read() == b""
        assert pipe(process.stderr).read() == b""


def test_command_whose_reader_leaves(server: Server) -> None:
    with started(server.grpc_address) as process:
        give(process, b"one\n")
        take_line(process)
        pipe(process.stdout).close()
        give(process, b"two\nthree\n")
        pipe(process.stdin).close()
        assert process.wait(30) == 141
        assert pipe(process.stderr).read() == b""


def test_the_script_classifies(server: Server) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "classify", REFUSAL],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "REJECTION_URL": server.grpc_address},
    )
    assert done.returncode == 0, done.stderr
    assert "REJECTION" in done.stdout.splitlines()[1]


def test_command_scores_a_field_of_json_lines(server: Server, tmp_path: Path) -> None:
    for name, text in (("a", REFUSAL), ("b", ANSWER)):
        (tmp_path / name).write_text(json.dumps({"id": name, "answer": text}) + "\n{}\n")
    done = run(
        server.grpc_address,
        *("--jsonl", "answer", "--file", str(tmp_path / "a"), "--file", str(tmp_path / "b"), "--output", "jsonl"),
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = [(line["file"], line["line"], line.get("label"), line.get("error")) for line in lines]
    a, b = (str(tmp_path / name) for name in "ab")
    assert found == [
        (a, 1, "REJECTION", None),
        (a, 2, None, f"{a} line 2 has no field 'answer'"),
        (b, 1, "NORMAL", None),
        (b, 2, None, f"{b} line 2 has no field 'answer'"),
    ]
    assert [line["record"].get("id") for line in lines] == ["a", None, "b", None]
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"rejection: {line['error']}" for line in lines if "error" in line]


def test_command_scores_a_column_of_csv(server: Server) -> None:
    given = f'id,text,label\n1,"{REFUSAL}",old\n2,"two\nlines",old\n'
    done = run(server.grpc_address, "--csv", "text", "--output", "csv", given=given)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = csv.DictReader(io.StringIO(done.stdout))
    assert (first["id"], first["text"], first["label"]) == ("1", REFUSAL, "old")
    assert first["predicted_label"] == "REJECTION"
    assert first["is_rejection"] == "true"
    assert float(first["score"]) == float(first["REJECTION"]) > 0.5
    assert float(first["NORMAL"]) < 0.5
    assert (first["line"], first["error"]) == ("2", "")
    assert second["text"] == "two\nlines"


def test_command_names_a_column_that_is_not_there(server: Server) -> None:
    done = run(server.grpc_address, "--csv", "answer", given="id,text\n1,x\n")
    assert done.returncode == 1
    assert "has no column 'answer'; its first line names 'id', 'text'" in done.stderr


def test_exit_code_tells_of_rejections(server: Server) -> None:
    assert run(server.grpc_address, "--exit-code", REFUSAL).returncode == 3
    assert run(server.grpc_address, "--exit-code", "--threshold", "1", REFUSAL).returncode == 0


def test_a_max_length_beyond_the_models_is_told_once(server: Server) -> None:
    done = run(server.grpc_address, "--max-length", "9000", given="one\ntwo\n")
    assert done.returncode == 0
    assert done.stderr == "rejection: --max-length 9000 is more than 'rejection' reads; 512 tokens it is\n"
    assert run(server.grpc_address, "--max-length", "512", REFUSAL).stderr == ""


def test_another_label_may_be_the_positive_one(server: Server) -> None:
    done = run(server.grpc_address, "--positive-label", "NORMAL", "--exit-code", REFUSAL)
    assert (done.returncode, done.stdout.split()[1]) == (0, "P(NORMAL)")
    done = run(server.grpc_address, "--positive-label", "refusal", REFUSAL)
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no label 'refusal'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--threshold", "1.5", "x"], "--threshold 1.5 is no probability"),
        (["--delimiter", ";", "--jsonl", "a"], "give --csv COLUMN"),
        (["--file", "a", "x"], "both as arguments and in files"),
        (["--csv", "text", "a.csv"], "--csv says how files are read, and 'a.csv' is a text: name files with --file"),
        (["--field", "text", "a.jsonl"], "name files with --file"),
    ],
)
def test_options_that_do_not_go_together(server: Server, arguments: list[str], told: str) -> None:
    done = run(server.grpc_address, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_files_of_other_columns_are_not_put_under_one_header(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,text\n1,{ANSWER.replace(',', '')}\n")
    (tmp_path / "b.csv").write_text(f'text,id\n"{REFUSAL}",2\n')
    (tmp_path / "c.csv").write_text(f'text,label\n"{REFUSAL}",x\n')
    a, b, c = (["--file", str(tmp_path / f"{name}.csv")] for name in "abc")
    done = run(server.grpc_address, "--field", "text", *a, *b, "--output", "csv")
    assert [(row["id"], row["label"]) for row in csv.DictReader(io.StringIO(done.stdout))] == [
        ("1", "NORMAL"),
        ("2", "REJECTION"),
    ]
    done = run(server.grpc_address, "--field", "text", *a, *c, "--output", "csv")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has the columns text, label, and" in done.stderr
    given = '{"text": "a", "id": 1}\n{"text": "b", "more": 2}\n{"text": "c"}\n'
    done = run(server.grpc_address, "--jsonl", "text", "--output", "csv", given=given)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["text"], row["id"], bool(row["error"])) for row in rows] == [
        ("a", "1", False),
        ("b", "", True),
        ("c", "", False),
    ]


def test_document_shows_the_highest_sentence(server: Server) -> None:
    text = f"{ANSWER} {REFUSAL} {ANSWER}"
    done = run(server.grpc_address, "document", "--unit", "sentences", "--output", "jsonl", given=text)
    assert done.returncode == 0, done.stderr
    (unit,) = map(json.loads, done.stdout.splitlines())
    assert text[unit["start"] : unit["end"]] == unit["text"] == REFUSAL
    assert unit["unit_count"] == 3
    done = run(server.grpc_address, "document", "--unit", "sentences", "--all", "--exit-code", given=text)
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 4
    assert done.stdout.split()[0] == "CHARACTERS"


def test_health_tells_of_each_server(server: Server, closed_port: str) -> None:
    done = run(server.grpc_address, "health", "--wait", "10")
    assert (done.returncode, done.stdout) == (0, f"{server.grpc_address} takes requests for 'rejection'\n")
    done = run(f"{server.grpc_address},{closed_port}", "health")
    assert done.returncode == 1
    assert done.stdout.splitlines()[1] == f"{closed_port} does not take requests for 'rejection'"


def test_info_shows_the_model(server: Server) -> None:
    done = run(server.grpc_address, "info")
    assert done.returncode == 0
    told = dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines())
    assert (told["labels"], told["positive label"]) == ("NORMAL, REJECTION", "REJECTION")
    assert (told["function to apply"], told["precision"], told["max length"]) == ("softmax", "int8", "512")
    assert told["model revision"] == "not told"
    assert re.fullmatch("[0-9a-f]{64}", told["model sha256"])
    done = run(server.grpc_address, "info", "--output", "jsonl")
    assert json.loads(done.stdout)["max_batch_size"] == 64


def test_watch_shows_what_the_server_does(server: Server) -> None:
    watching = subprocess.Popen(
        command("watch", "--metrics", str(server.metrics_address), "--interval", "2", "--count", "1"),
        env=environment(server.grpc_address),
        stdout=subprocess.PIPE,
        text=True,
    )
    with RejectionClient(server.grpc_address) as client:
        while watching.poll() is None:
            client.classify_many([f"text {n}" for n in range(20)], timeout_s=60)
    header, *rows = pipe(watching.stdout).read().splitlines()[1:]
    pipe(watching.stdout).close()
    assert watching.returncode == 0
    assert header.split()[:2] == ["MODEL", "REQUESTS/S"]
    by_model = {row.split()[0]: row.split()[1:] for row in rows}
    assert set(by_model) == {"classifier", "rejection", "scoring", "tokenizer"}
    requests_per_s, failures_per_s, texts_per_s, latency_ms, *_ = map(float, by_model["rejection"])
    assert 0 < requests_per_s < texts_per_s
    assert failures_per_s == 0
    assert latency_ms > 0


def test_watch_without_metrics_says_so(closed_port: str) -> None:
    done = run("", "watch", "--metrics", f"http://{closed_port}/metrics")
    assert done.returncode == 1
    assert done.stderr.startswith(f"rejection: cannot read http://{closed_port}/metrics: ")
