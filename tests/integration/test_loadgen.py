"""The C++ load generator, built by its script, against the real server: counts and labels, never times."""

import json
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rejection_client import RejectionClient
from rejection_server.host import Server
from support.proto_examples import missing_tools
from support.repository import RESPONSES, ROOT

TEXTS = [json.loads(line)["text"] for line in RESPONSES.read_text().splitlines()[:12]]
TEXTS += ["", "é, 日本語 and 🙂", "Sorry, I can't help with that."]
CLOSED = ["--concurrency", "3", "--seconds", "3"]
OPEN = ["--rate", "7", "--seconds", "3"]


@pytest.fixture(scope="module")
def loadgen() -> Path:
    """Path of the built program."""
    if missing := missing_tools("cpp"):
        pytest.skip(f"loadgen: no {', '.join(missing)} here; scripts/install-toolchains cpp installs it")
    done = subprocess.run(
        ["nice", ROOT / "scripts" / "build-loadgen"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "warning" not in done.stdout
    return ROOT / "build" / "loadgen" / "loadgen"


@pytest.fixture
def texts_path(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture(scope="module")
def client_labels(server: Server) -> list[str]:
    """The Python client's label of each text."""
    with RejectionClient(server.grpc_address) as client:
        return [prediction.label for prediction in client.classify_many(TEXTS)]


def run(loadgen: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([loadgen, *arguments], capture_output=True, text=True, timeout=90)


def test_a_socket_of_this_machine_takes_the_place_of_a_port(loadgen: Path, server: Server, texts_path: Path) -> None:
    load = ("--texts", texts_path, "--concurrency", "1", "--seconds", "1")
    done = run(loadgen, "--url", server.triton_address, *load)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["ok"] > 0


def measure(loadgen: Path, server: Server, *arguments: str | Path) -> Any:
    result = run(loadgen, "--url", server.grpc_address, *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def labels_of(first: int, client_labels: list[str]) -> dict[str, int]:
    """Counts of the labels of the first so many texts, sent over and over in order."""
    counts = Counter({"NORMAL": 0, "REJECTION": 0})
    counts.update(client_labels[number % len(client_labels)] for number in range(first))
    return dict(counts)


def assert_consistent(report: Any) -> None:
    latency = report["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert latency["mean"] <= latency["max"]
    assert report["cpu_s"] > 0
    assert (report["seconds"], report["interrupted"]) == (3, False)


def test_closed_loop(loadgen: Path, server: Server, texts_path: Path, client_labels: list[str]) -> None:
    report = measure(loadgen, server, "--texts", texts_path, *CLOSED, "--warmup-seconds", "0.5")
    assert report["sent"] == report["ok"] > len(TEXTS)
    assert report["failed"] == {}
    assert report["failed_latency_ms"] is None
    assert report["labels"] == labels_of(report["sent"], client_labels)
    assert report["late_ms_p99"] is None
    # Three at a time: that many were sent before the window's end and answered after it, or before and in it.
    assert abs(report["achieved_rate"] * report["seconds"] - report["ok"]) <= 3.01
    assert report["texts_per_s"] == report["achieved_rate"]
    assert_consistent(report)


def test_open_loop(loadgen: Path, server: Server, texts_path: Path, client_labels: list[str], tmp_path: Path) -> None:
    json_path = tmp_path / "report.json"
    report = measure(loadgen, server, "--texts", texts_path, *OPEN, "--channels", "2", "--json", json_path)
    assert abs(report["sent"] - 7 * 3) <= 1
    assert report["ok"] == report["sent"]
    assert report["failed"] == {}
    assert report["labels"] == labels_of(report["sent"], client_labels)
    assert report["late_ms_p99"] >= 0
    assert_consistent(report)
    assert json.loads(json_path.read_text()) == report


def test_batches(loadgen: Path, server: Server, texts_path: Path, client_labels: list[str]) -> None:
    report = measure(loadgen, server, "--texts", texts_path, *OPEN, "--batch", "4", "--warmup-seconds", "0.5")
    assert 1 < report["sent"] <= 7 * 3 + 1
    assert report["ok"] == report["sent"]
    assert report["labels"] == labels_of(4 * report["sent"], client_labels)
    assert report["texts_per_s"] == pytest.approx(4 * report["achieved_rate"], abs=0.01)


@pytest.mark.parametrize("loop", [CLOSED, OPEN], ids=["closed loop", "open loop"])
def test_bad_input_is_counted_by_its_code(loadgen: Path, server: Server, tmp_path: Path, loop: list[str]) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(b"Sorry, I can't help with that.\nnot \xff UTF-8\n")
    report = measure(loadgen, server, "--texts", path, *loop)
    assert report["sent"] > 10
    assert report["failed"] == {"INVALID_ARGUMENT": report["sent"] // 2}
    assert report["ok"] == report["sent"] - report["sent"] // 2
    assert report["labels"] == {"NORMAL": 0, "REJECTION": report["ok"]}
    assert report["failed_latency_ms"]["p50"] > 0


class Frozen:
    """A relay to the server that stops passing anything on once it is frozen."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.thaw = threading.Event()
        self.thaw.set()
        self.server = (host, int(port))
        self.sockets = [self.listener]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                caller = self.listener.accept()[0]
            except OSError:
                return
            target = socket.create_connection(self.server)
            self.sockets += [caller, target]
            for source, sink in ((caller, target), (target, caller)):
                threading.Thread(target=self.pass_on, args=(source, sink), daemon=True).start()

    def pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.thaw.wait()
                sink.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        self.thaw.set()
        for one in self.sockets:
            one.close()


@pytest.fixture
def relay(server: Server) -> Iterator[Frozen]:
    relay = Frozen(server.grpc_address)
    yield relay
    relay.close()


def started(loadgen: Path, *arguments: str | Path) -> "tuple[subprocess.Popen[str], str]":
    """The program, once it reports its first progress: it has sent requests by then."""
    process = subprocess.Popen([loadgen, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    return process, process.stderr.readline()


@pytest.mark.parametrize("loop", [["--rate", "20"], ["--concurrency", "2"]], ids=["open loop", "closed loop"])
def test_ctrl_c_prints_what_was_measured(
    loadgen: Path, server: Server, texts_path: Path, client_labels: list[str], loop: list[str]
) -> None:
    process, _ = started(loadgen, "--url", server.grpc_address, "--texts", texts_path, *loop, "--seconds", "3600")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    report = json.loads(out)
    assert report["interrupted"]
    assert 0 < report["sent"] == report["ok"]
    assert report["labels"] == labels_of(report["sent"], client_labels)
    assert report["seconds"] < 3600


def unanswered(loadgen: Path, relay: Frozen, texts_path: Path, *loop: str) -> Any:
    """The report of a run whose server stopped answering, and that was ended by a second Ctrl-C."""
    arguments: list[str | Path] = ["--url", relay.address, "--texts", texts_path, *loop, "--seconds", "3600"]
    process, _ = started(loadgen, *arguments, "--deadline-ms", "3600000")
    relay.thaw.clear()
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    report = json.loads(out)
    assert set(report["failed"]) == {"CANCELLED"}
    assert report["ok"] == report["sent"] - report["failed"]["CANCELLED"] > 0
    return report


def test_arrivals_do_not_wait_for_answers(loadgen: Path, relay: Frozen, texts_path: Path) -> None:
    report = unanswered(loadgen, relay, texts_path, "--rate", "10")
    assert report["failed"]["CANCELLED"] > 10


def test_a_closed_loop_waits_for_answers(loadgen: Path, relay: Frozen, texts_path: Path) -> None:
    report = unanswered(loadgen, relay, texts_path, "--concurrency", "2")
    assert report["failed"] == {"CANCELLED": 2}


def test_no_server(loadgen: Path, texts_path: Path) -> None:
    # Nothing listens on port 1 of the loopback.
    result = run(loadgen, "--url", "127.0.0.1:1", "--texts", texts_path, *OPEN)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("loadgen: no gRPC server answers at 127.0.0.1:1: ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "cannot read --texts"),
        ("empty.txt", "", "holds no text"),
        ("broken.jsonl", '{"text": "a"}\n{"text"\n', "broken.jsonl, line 2, is no JSON object"),
        ("other.jsonl", '{"texts": "a"}\n', 'other.jsonl, line 1, has no string "text"'),
    ],
)
def test_texts_that_cannot_be_read(loadgen: Path, tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    result = run(loadgen, "--url", "127.0.0.1:1", "--texts", tmp_path / name, *OPEN)
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--url is missing"),
        (["--url", "127.0.0.1:8001", *OPEN], "--texts is missing"),
        (["--url", "127.0.0.1:8001", "--texts", "x", "--seconds", "1"], "one of --rate"),
        (["--url", "127.0.0.1:8001", "--texts", "x", *OPEN, *CLOSED], "one of --rate"),
        (["--url", "127.0.0.1:8001", "--texts", "x", "--rate", "1"], "--seconds is missing"),
        (["--url", "127.0.0.1", "--texts", "x", *OPEN], "HOST:PORT"),
        (["--url", "192.0.2.1:8001", "--texts", "x", *OPEN], "--yes"),
        (["--rate", "fast"], "--rate is 'fast'"),
        (["--rate"], "--rate lacks its value"),
        (["--colour", "red"], "--colour is none of its options"),
        (["texts.txt"], "'texts.txt' belongs to no option"),
    ],
)
def test_a_wrong_command_line(loadgen: Path, arguments: list[str], message: str) -> None:
    result = run(loadgen, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr


def test_help(loadgen: Path) -> None:
    result = run(loadgen, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    for word in ("--rate", "--concurrency", "--json", "Ctrl-C", "late_ms_p99"):
        assert word in result.stdout
