"""The client and its command against the served model, over real gRPC."""

import contextlib
import doctest
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rejection_client import (
    DeadlineExceededError,
    InvalidInputError,
    ModelNotFoundError,
    RejectionClient,
    ServerUnavailableError,
)

ROOT = Path(__file__).parents[2]
REFUSAL = "Sorry, but I can't assist with that."
ANSWER = "The capital of France is Paris, a city of two million people on the river Seine."
MAX_BATCH_SIZE = 64


@pytest.fixture(scope="module")
def client(server):
    with RejectionClient(server.grpc_address, timeout_s=30) as client:
        yield client


class Cable:
    """A TCP connection between client and server that can be silenced and cut."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self._upstream = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.hold_answers = threading.Event()
        self.answer_held = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._upstream)
                self._ends += [near, far]
                threading.Thread(target=self._carry, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._carry, args=(far, near, True), daemon=True).start()

    def _carry(self, source, sink, answers):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answers and self.hold_answers.is_set():
                    self.answer_held.set()
                else:
                    sink.sendall(data)

    def cut(self):
        """Close both ends; nobody listens afterwards."""
        # A thread blocked in accept() keeps a merely closed listener alive.
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def cable(server):
    cable = Cable(server.grpc_address)
    yield cable
    cable.cut()


def test_one_text_gives_one_prediction(client):
    prediction = client.classify(REFUSAL)
    assert prediction.label == "REJECTION"
    assert list(prediction.probabilities) == ["NORMAL", "REJECTION"]
    assert prediction.score == prediction.probabilities["REJECTION"] > 0.5
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert prediction.token_count > len(REFUSAL.split())


def test_several_texts_give_predictions_in_order(client):
    predictions = client.classify([ANSWER, REFUSAL, ANSWER])
    assert [prediction.label for prediction in predictions] == ["NORMAL", "REJECTION", "NORMAL"]
    assert predictions[0] == predictions[2]


def test_more_texts_than_a_batch_holds(client):
    texts = [f"{n} is a number." for n in range(2 * MAX_BATCH_SIZE + 3)]
    predictions = client.classify(tuple(texts))
    assert len(predictions) == len(texts)
    for index in (0, MAX_BATCH_SIZE - 1, MAX_BATCH_SIZE, len(texts) - 1):
        assert predictions[index] == client.classify(texts[index])


@pytest.mark.parametrize("text", ["", " \n\t ", "\0", "🤷🏽‍♀️ désolé", "\x1b[31mno\x07"])
def test_any_unicode_text_is_classified(client, text):
    assert client.classify(text).token_count >= 2


def test_max_length_truncates_what_is_scored_not_what_is_counted(client):
    text = f"{REFUSAL} {ANSWER}"
    whole, cut = client.classify(text), client.classify(text, max_length=4)
    assert whole.token_count == cut.token_count
    assert whole.score != cut.score


def test_a_max_length_beyond_the_models_is_the_models(client):
    assert client.classify(REFUSAL, max_length=10_000).probabilities == client.classify(REFUSAL).probabilities


@pytest.mark.parametrize("max_length", [0, -1])
def test_a_max_length_below_one(client, max_length):
    with pytest.raises(InvalidInputError, match="max_length"):
        client.classify([REFUSAL, ANSWER], max_length=max_length)


def test_the_row_counts_across_requests(client):
    texts = ["short"] * (MAX_BATCH_SIZE + 10)
    texts[MAX_BATCH_SIZE + 5] = "x" * (1024 * 1024 + 1)
    with pytest.raises(InvalidInputError, match=f"row {MAX_BATCH_SIZE + 5}\\b") as caught:
        client.classify(texts)
    assert caught.value.row == MAX_BATCH_SIZE + 5


def test_a_lone_surrogate_never_leaves(client):
    with pytest.raises(InvalidInputError, match="lone surrogate") as caught:
        client.classify(["fine", "half a \ud83e"])
    assert caught.value.row == 1


def test_a_model_that_is_not_there(server):
    with RejectionClient(server.grpc_address, model="nope") as client, pytest.raises(ModelNotFoundError, match="nope"):
        client.classify(REFUSAL)


def test_a_deadline_too_short(client, server):
    with RejectionClient(server.grpc_address, timeout_s=0.0001) as hasty, pytest.raises(DeadlineExceededError):
        hasty.classify([ANSWER * 20] * MAX_BATCH_SIZE)
    assert client.classify(REFUSAL).label == "REJECTION"


def test_threads_share_a_client(server):
    texts = [REFUSAL, ANSWER] * 20
    with RejectionClient(server.grpc_address, timeout_s=30) as client, ThreadPoolExecutor(8) as pool:
        labels = [prediction.label for prediction in pool.map(client.classify, texts)]
    assert labels == ["REJECTION", "NORMAL"] * 20


def test_a_connection_cut_during_a_call_is_not_an_overload(cable):
    with RejectionClient(cable.address, timeout_s=30) as client, ThreadPoolExecutor(1) as pool:
        client.classify(REFUSAL)
        cable.hold_answers.set()
        call = pool.submit(client.classify, REFUSAL)
        assert cable.answer_held.wait(30)
        cable.cut()
        with pytest.raises(ServerUnavailableError, match=cable.address):
            call.result(30)


# --- the command -------------------------------------------------------------------------------------------------


def command(*arguments):
    return [sys.executable, "-m", "rejection_client", "classify", *arguments]


def environment(address, **more):
    # Without PYTHONUNBUFFERED and its like, which change what is tested here.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**plain, "PYTHONPATH": str(ROOT / "client"), "REJECTION_URL": address, **more}


def run(address, *arguments, given="", **more):
    return subprocess.run(
        command("--timeout", "30", *arguments),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(address, **more),
    )


@contextlib.contextmanager
def started(address, *arguments):
    """The command with pipes for its streams, killed at the end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command(*arguments), env=environment(address), **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def give(process, raw):
    process.stdin.write(raw)
    process.stdin.flush()


def take_line(process, timeout_s=30):
    """The next line of output; unlike readline(), does not wait forever."""
    deadline = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([process.stdout], [], [], deadline - time.monotonic())[0], f"no line, only {line!r}"
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, f"output ended after {line!r}"
        line += byte
    return line


def test_command_prints_a_table(server):
    done = run(server.grpc_address, REFUSAL, ANSWER)
    assert (done.returncode, done.stderr) == (0, "")
    header, refusal, answer = done.stdout.splitlines()
    assert header.split() == ["LABEL", "P(REJECTION)", "TOKENS", "TEXT"]
    assert refusal.split()[0] == "REJECTION"
    assert float(refusal.split()[1]) > 0.5
    assert refusal.endswith(f"  {REFUSAL}")
    assert answer.split()[0] == "NORMAL"


def test_command_prints_json_lines_in_any_locale(server, client):
    done = run(server.grpc_address, "--output", "jsonl", given="désolé 🤷\n\n", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["text"] for line in lines] == ["désolé 🤷", ""]
    assert lines[1]["label"] == client.classify("").label
    assert set(lines[0]) == {"text", "label", "score", "probabilities", "token_count"}


def test_command_streams_its_input(server):
    with started(server.grpc_address, "--output", "jsonl") as process:
        for text in (REFUSAL, ANSWER):
            give(process, f"{text}\n".encode())
            assert json.loads(take_line(process))["text"] == text
        process.stdin.close()
        assert process.wait(30) == 0


def test_command_leaves_out_what_cannot_be_classified(server):
    with started(server.grpc_address, "--output", "jsonl") as process:
        out, err = process.communicate(b"one\nt\xffo\n" + b"x" * (1024 * 1024 + 1) + b"\nfour", timeout=60)
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["one", "four"]
    assert process.returncode == 1
    first, second = err.decode().splitlines()
    assert "line 2" in first
    assert "line 3" in second


def test_command_when_the_server_dies_midway(cable):
    with started(cable.address, "--output", "jsonl") as process:
        give(process, b"one\n")
        assert json.loads(take_line(process))["text"] == "one"
        cable.cut()
        out, err = process.communicate(b"two\nthree\n", timeout=60)
    assert process.returncode == 1
    assert out == b""
    assert err.decode().startswith(f"rejection: cannot reach {cable.address}: ")
    assert err.decode().endswith("(1 texts were classified before)\n")


@pytest.mark.parametrize("waiting_for", ["input", "the server"])
def test_command_interrupted(cable, waiting_for):
    with started(cable.address, "--output", "jsonl") as process:
        give(process, b"one\n")
        take_line(process)
        if waiting_for == "the server":
            cable.hold_answers.set()
            give(process, b"two\n")
            assert cable.answer_held.wait(30)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stdout.read() == b""
        assert process.stderr.read() == b""


def test_command_whose_reader_leaves(server):
    with started(server.grpc_address) as process:
        give(process, b"one\n")
        take_line(process)
        process.stdout.close()
        give(process, b"two\nthree\n")
        process.stdin.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


def test_the_script_classifies(server):
    done = subprocess.run(
        [ROOT / "scripts" / "classify", REFUSAL],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "REJECTION_URL": server.grpc_address},
    )
    assert done.returncode == 0, done.stderr
    assert "REJECTION" in done.stdout.splitlines()[1]


def test_the_readme_is_true(server):
    readme = (ROOT / "client" / "README.md").read_text()
    session = readme.split("```pycon\n")[1].split("```")[0].replace("127.0.0.1:8001", server.grpc_address)
    examples = doctest.DocTestParser().get_doctest(session, {}, "README.md", None, None)
    assert len(examples.examples) > 5
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples)
    assert result.failed == 0
