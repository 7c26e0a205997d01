"""The embedded host with a real Triton and a small Python model: starting, serving, stopping, dying."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Never

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rejection_server.host import ServeOptions, Server
from rejection_server.host.errors import ModelLoadError, RepositoryError
from support.repository import REPOSITORY

GONE_WITHIN_S = 15

CONFIG = """
backend: "python"
max_batch_size: 8
input [
  { name: "text" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "numbers" data_type: TYPE_INT64 dims: [ -1 ] }
]
output [
  { name: "lengths" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "doubled" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "process" data_type: TYPE_INT32 dims: [ 1 ] }
]
"""
MODEL = """
import os
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        text = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        numbers = pb_utils.get_input_tensor_by_name(request, "numbers").as_numpy()
        if text[0, 0].startswith(b"sleep"):
            time.sleep(float(text[0, 0].split()[1]))
        lengths = np.array([[len(row[0])] for row in text], np.int32)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("lengths", lengths),
                pb_utils.Tensor("doubled", 2 * numbers),
                pb_utils.Tensor("process", np.full_like(lengths, os.getpid())),
            ]
        )
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repository")


def make_repository(folder: Path, model: str = MODEL, config: str = CONFIG) -> Path:
    (folder / "echo" / "1").mkdir(parents=True)
    (folder / "echo" / "config.pbtxt").write_text(config)
    (folder / "echo" / "1" / "model.py").write_text(model)
    return folder


def options(repository: Path, **changes: Any) -> ServeOptions:
    return ServeOptions(repository=repository, grpc_port=0, metrics_port=None, **changes)


def infer(address: str, texts: Sequence[bytes], numbers: Sequence[Sequence[int]] = ((1,),)) -> dict[str, Any]:
    client = triton.InferenceServerClient(address)
    array = np.array([*numbers] * (len(texts) if len(numbers) == 1 else 1), np.int64)
    inputs = [triton.InferInput("text", [len(texts), 1], "BYTES"), triton.InferInput("numbers", array.shape, "INT64")]
    inputs[0].set_data_from_numpy(np.array(texts, object).reshape(-1, 1))
    inputs[1].set_data_from_numpy(array)
    result = client.infer("echo", inputs, client_timeout=60)
    client.close()
    return {name: result.as_numpy(name).tolist() for name in ("lengths", "doubled", "process")}


def fail_to_infer(address: str, texts: Sequence[bytes]) -> None:
    with pytest.raises(triton.InferenceServerException):
        infer(address, texts)


def traces(folder: Path) -> list[str]:
    """What is left of a server: its processes, shared memory and runtime folder."""
    found = [str(region) for region in Path("/dev/shm").glob(f"{folder.name}*")]
    for process in psutil.process_iter(["cmdline", "status"]):
        words: list[str] = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in words):
            found.append(f"{process.pid} {words[0]}")
    return found + ([str(folder)] if folder.exists() else [])


def assert_gone(folder: Path, within_s: float = GONE_WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while (left := traces(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


class Launched:
    """`python -m rejection_server serve` in a process of its own, ready."""

    def __init__(self, repository: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "rejection_server", "serve", "--repository", str(repository)),
                *("--grpc-port", "0", "--metrics-port", "off", *arguments),
            ],
            env={**os.environ, "REJECTION_SCRIPTS": "scripts"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.output = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if "Ctrl-C" in line:
                break
        else:
            raise AssertionError(self.process.communicate()[1])
        self.address = next(line.split()[1] for line in self.output if "gRPC" in line)
        (self.guardian,) = psutil.Process(self.process.pid).children()
        self.triton, *others = self.guardian.children()
        self.guard = others[0] if others else None
        self.stubs = self.triton.children()
        self.everything = [*self.stubs, self.triton, *others]
        self.folder = Path(self.guardian.cmdline()[5])

    def finish(self) -> tuple[int, str]:
        """Exit status and what was said on standard error."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@pytest.fixture
def launched(repository: Path) -> Iterator[Launched]:
    launched = Launched(repository)
    assert len(traces(launched.folder)) >= 5, "the test must see a server that runs"
    yield launched
    launched.process.kill()
    launched.process.communicate()
    assert_gone(launched.folder)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the tests that only ask."""
    folder = tmp_path_factory.mktemp("serving")
    options = ServeOptions(
        repository=make_repository(folder / "repository"),
        host="localhost",
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        log_level="info",
        log_path=folder / "triton.log",
    )
    with Server(options) as server:
        yield server


def test_tensors_arrive_whole_both_ways(serving: Server) -> None:
    texts = [b"abc", "grüße 🤷".encode(), b"", b"\x00\xff1"]
    answer = infer(serving.grpc_address, texts, [[1, 2, 3], [4, 5, 6], [7, 8, 9], [-(2**62), 0, 2**61]])
    assert answer["lengths"] == [[3], [12], [0], [3]]
    assert answer["doubled"] == [[2, 4, 6], [8, 10, 12], [14, 16, 18], [-(2**63), 0, 2**62]]


def test_stopping_lets_requests_finish(repository: Path) -> None:
    with Server(options(repository)) as server:
        answers = []
        request = threading.Thread(target=lambda: answers.append(infer(server.grpc_address, [b"sleep 2"])))
        request.start()
        time.sleep(0.7)
        assert server.stop() == 0
        request.join()
        assert answers[0]["lengths"] == [[7]]
        assert server.stop() == 0, "stopping twice is fine"
    assert_gone(server.runtime_folder, within_s=0)


def test_log_file_and_tail(serving: Server) -> None:
    assert serving.log_path is not None
    assert any("successfully loaded 'echo'" in line for line in serving.log_tail())
    assert "Started GRPCInferenceService" in serving.log_path.read_text()


def test_metrics_and_http_ports(serving: Server) -> None:
    assert serving.metrics_address is not None
    assert b"nv_inference_count" in fetch(serving.metrics_address)
    assert b'"name":"triton"' in fetch(f"{serving.http_address}/v2")


def test_a_single_caller_always_meets_the_same_instance(tmp_path: Path) -> None:
    # Its caches are warm, those of an instance that takes turns are not.
    classifier = text_format.Parse(
        (REPOSITORY / "classifier" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    groups = model_config_pb2.ModelConfig(instance_group=classifier.instance_group)
    repository = make_repository(tmp_path / "repository", config=CONFIG + text_format.MessageToString(groups))
    with Server(options(repository)) as server, ThreadPoolExecutor(1) as pool:
        processes = []
        for _ in range(30):
            time.sleep(0.03)  # An instance is free only some time after its answer has gone out, on a busy machine.
            processes.append(infer(server.grpc_address, [b"hello"])["process"][0][0])
        ((first, often), *others) = Counter(processes).most_common()
        assert often >= 25, (often, others)  # 15 where they take turns
        time.sleep(0.5)
        busy = pool.submit(infer, server.grpc_address, [b"sleep 2"])
        time.sleep(0.5)
        other = infer(server.grpc_address, [b"hello"])["process"][0][0]
        assert not busy.done()
        assert busy.result()["process"] == [[first]]
        assert other != first


def fetch(url: str) -> bytes:
    from urllib.request import urlopen

    with urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_forwarded(launched: Launched, number: signal.Signals) -> None:
    answers = []
    request = threading.Thread(target=lambda: answers.append(infer(launched.address, [b"sleep 2"])))
    request.start()
    time.sleep(0.7)
    launched.process.send_signal(number)
    status, errors = launched.finish()
    request.join()
    assert answers[0]["lengths"] == [[7]]
    assert status == 0
    assert "Traceback" not in errors
    assert traces(launched.folder) == []


def test_second_interrupt_forces(launched: Launched) -> None:
    request = threading.Thread(target=fail_to_infer, args=(launched.address, [b"sleep 30"]))
    request.start()
    time.sleep(0.7)
    begin = time.monotonic()
    launched.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    launched.process.send_signal(signal.SIGINT)
    status, _ = launched.finish()
    assert time.monotonic() - begin < 5
    assert status == 128 + signal.SIGKILL
    assert traces(launched.folder) == []
    request.join()


def test_launcher_is_killed(launched: Launched) -> None:
    launched.process.kill()
    assert_gone(launched.folder, within_s=6)


def test_launcher_is_killed_with_a_request_in_flight(launched: Launched) -> None:
    request = threading.Thread(target=fail_to_infer, args=(launched.address, [b"sleep 30"]))
    request.start()
    time.sleep(0.7)
    launched.process.kill()
    assert_gone(launched.folder, within_s=6)
    request.join()


def test_triton_is_killed(launched: Launched) -> None:
    launched.triton.kill()
    status, errors = launched.finish()
    assert status == 128 + signal.SIGKILL
    assert "scripts/serve: Triton was killed by signal 9 (SIGKILL)" in errors
    assert traces(launched.folder) == []


def test_guardian_is_killed(launched: Launched) -> None:
    launched.guardian.kill()
    status, errors = launched.finish()
    assert status != 0
    assert "Traceback" not in errors
    assert_gone(launched.folder)


def test_launcher_and_guardian_are_killed(launched: Launched, repository: Path) -> None:
    launched.process.kill()
    launched.guardian.kill()
    processes = [launched.triton, *launched.stubs]
    assert psutil.wait_procs(processes, timeout=GONE_WITHIN_S)[1] == []
    # What is left are files; the next start clears them up once they are old enough.
    os.utime(launched.folder, (0, 0))
    with Server(options(repository)):
        assert traces(launched.folder) == []


def test_stub_is_killed(launched: Launched) -> None:
    """Triton would go on, ready by its own account, and answer every request with an error."""
    launched.stubs[0].kill()
    status, errors = launched.finish()
    assert status != 0
    assert "the process of model instance echo_0 was killed by signal 9 (SIGKILL): Triton does not start it" in errors
    assert traces(launched.folder) == []


def test_a_model_that_raises_is_named(tmp_path: Path) -> None:
    model = MODEL.replace("def execute", "def initialize(self, args): raise ValueError('no file')\n\n    def execute")
    server = Server(options(make_repository(tmp_path / "r", model=model)))
    with pytest.raises(ModelLoadError, match=r"model 'echo' could not be loaded: ValueError: no file$"):
        server.start()
    assert traces(server.runtime_folder) == []


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    server = Server(options(make_repository(tmp_path / "r", config=CONFIG + "max_batch_size: x")))
    with pytest.raises(ModelLoadError, match=r"'echo' could not be loaded: failed to read text proto .*line"):
        server.start()
    assert traces(server.runtime_folder) == []


def test_a_model_without_code_does_not_hang(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "r")
    (repository / "echo" / "1" / "model.py").unlink()
    server = Server(options(repository))
    with pytest.raises(RepositoryError, match=r"Python model file not found in '.*echo/1/model\.py'"):
        server.start()
    assert traces(server.runtime_folder) == []


def test_an_interrupt_in_the_middle_of_launching_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C once the guardian runs, but before anybody waits for its end."""
    started = []

    def interrupt(thread: threading.Thread, **_names: object) -> Never:
        started.append(thread)
        raise KeyboardInterrupt

    server = Server(ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=None))
    with monkeypatch.context() as patched:
        patched.setattr("rejection_server.host.processes.threading.Thread.start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            server.start()
    assert started
    assert traces(server.runtime_folder) == []
    assert server.stop() == 0, "there is nothing to stop or to wait for"
