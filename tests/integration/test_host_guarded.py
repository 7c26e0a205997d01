"""The embedded host with its guard: stopping under load, and processes that die or stand still."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import psutil
import pytest
from tritonclient.grpc import service_pb2

from integration.client_servers import make_certificates
from integration.test_host_lifecycle import Launched, assert_gone, traces
from rejection_client import AccessDeniedError, ClientConfig, RejectionClient, RejectionError, Tls
from rejection_server.guard.settings import ADMIN_KEY
from rejection_server.host import ServeOptions, Server
from support.kserve import Wire, request
from support.repository import REPOSITORY

STOPPING = {"the server is stopping", "failed to connect to all addresses", "Stream removed (GOAWAY received"}
"""The last one is gRPC's of a call that it had not begun, and is too large for it to keep and begin elsewhere."""


@pytest.fixture
def serving(request: pytest.FixtureRequest) -> Iterator[Launched]:
    launched = Launched(REPOSITORY, *getattr(request, "param", ()))
    yield launched
    for process in (launched.guardian, *launched.everything):
        if process.is_running():
            process.resume()
    launched.process.kill()
    launched.process.communicate()
    assert_gone(launched.folder)


class Callers:
    """Threads that call until they are stopped, or `count` times each; what became of the calls is counted."""

    def __init__(self, address: str, threads: int, texts: Callable[[int], list[str]], count: int = 1 << 30) -> None:
        self.answered: Counter[str] = Counter()
        self.under_way = threading.Semaphore(0)
        self._address, self._texts, self._count = address, texts, count
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def _call(self, caller: int) -> None:
        wire = Wire(self._address)
        for number in range(self._count):
            if self._stopped.is_set():
                return
            call = wire.send(request([f"{number} {text}" for text in self._texts(caller)]))
            self.under_way.release()
            try:
                call.result()
                self.answered["OK"] += 1
            except grpc.RpcError as error:
                self.answered[f"{error.code().name}: {error.details().partition(';')[0]}"] += 1
                time.sleep(0.02)

    def results(self) -> Counter[str]:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        return self.answered


def assert_answered_or_sent_elsewhere(outcomes: Counter[str]) -> None:
    assert outcomes.pop("OK") > 0
    assert set(outcomes) <= {f"UNAVAILABLE: {words}" for words in STOPPING}, outcomes


def test_callers_get_an_answer_or_unavailable_while_the_server_stops(serving: Launched) -> None:
    callers = Callers(serving.address, 8, lambda caller: [f"Boil the water, {caller}."])
    for _ in range(100):
        assert callers.under_way.acquire(timeout=30)
    serving.process.terminate()
    status, errors = serving.finish()
    assert_answered_or_sent_elsewhere(callers.results())
    assert status == 0, errors
    assert traces(serving.folder) == []


def test_large_texts_under_way_are_answered_when_the_server_stops(serving: Launched) -> None:
    callers = Callers(serving.address, 6, lambda caller: [f"word {caller} " * 65536], count=1)
    for _ in range(6):
        assert callers.under_way.acquire(timeout=30)
    serving.process.terminate()
    status, errors = serving.finish()
    outcomes = callers.results()
    assert sum(outcomes.values()) == 6
    assert set(outcomes) <= {"OK", *(f"UNAVAILABLE: {words}" for words in STOPPING)}
    assert status == 0, errors


def kinds(launched: Launched) -> dict[str, psutil.Process]:
    stubs = {process.cmdline()[8].partition("_")[0]: process for process in launched.stubs}
    assert launched.guard is not None
    return {"Triton": launched.triton, "guard": launched.guard, "guardian": launched.guardian, **stubs}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("Triton", "Triton gave no sign of life for 3 s: the server was stopped, start it again"),
        ("guard", "the guard gave no sign of life for 3 s: "),
        ("tokenizer", r"the process of model instance tokenizer_\w+ gave no sign of life for 3 s: "),
    ],
)
def test_what_stands_still_ends_the_server(serving: Launched, kind: str, words: str) -> None:
    kinds(serving)[kind].suspend()
    status, errors = serving.finish()
    assert status == 128 + signal.SIGKILL
    (said,) = re.findall(r"scripts/serve: .*", errors)
    assert re.match(f"scripts/serve: {words}", said)
    assert traces(serving.folder) == []


@pytest.mark.parametrize("serving", [("--guards", "2")], indirect=True, ids=["2 guards"])
def test_a_further_guard_that_stands_still_ends_the_server(serving: Launched) -> None:
    assert any("layout" in line and "2 guards" in line for line in serving.output)
    (other,) = kinds(serving)["guard"].children()
    other.suspend()
    status, errors = serving.finish()
    assert status == 128 + signal.SIGKILL
    assert "scripts/serve: the guard gave no sign of life for 3 s: " in errors
    assert not other.is_running()
    assert traces(serving.folder) == []


@pytest.mark.parametrize("kind", ["tokenizer", "classifier"])
def test_a_process_that_stands_still_with_a_request_ends_the_server(serving: Launched, kind: str) -> None:
    """Triton gives it up after a second, and might take what it says later for the answer to another request."""
    callers = Callers(serving.address, 2, lambda caller: [f"Boil the water, {caller}."])
    for _ in range(20):
        assert callers.under_way.acquire(timeout=30)
    for process in serving.stubs:
        if process.cmdline()[8].startswith(kind):
            process.suspend()
    status, errors = serving.finish()
    outcomes = callers.results()
    assert status == 128 + signal.SIGKILL
    assert re.search(rf"scripts/serve: Triton gave up model instance {kind}_\w+, whose process did not run", errors)
    assert outcomes["OK"] > 0
    assert traces(serving.folder) == []


def test_the_guard_is_killed(serving: Launched) -> None:
    kinds(serving)["guard"].kill()
    status, errors = serving.finish()
    assert status not in (0, None)
    assert "scripts/serve: the guard was killed by signal 9 (SIGKILL): nobody can reach Triton without it" in errors
    assert traces(serving.folder) == []


def test_a_machine_that_stood_still_as_a_whole_serves_on(serving: Launched) -> None:
    """All processes are frozen, as a virtual machine that is moved, and thawed, the one that watches last of all."""
    everything = [psutil.Process(serving.process.pid), serving.guardian, *serving.everything]
    for process in everything:
        process.suspend()
    time.sleep(5)  # longer than anybody may be silent
    for process in reversed(everything):
        process.resume()
    wire = Wire(serving.address)
    begin = time.monotonic()
    while time.monotonic() - begin < 5:  # as long again: a count that went on would end it now
        assert wire.infer(["Boil the water first."])
        time.sleep(0.5)
    assert serving.process.poll() is None


def test_a_launcher_that_stands_still_hinders_nobody(serving: Launched) -> None:
    launcher = psutil.Process(serving.process.pid)
    launcher.suspend()
    wire = Wire(serving.address)
    begin = time.monotonic()
    while time.monotonic() - begin < 5:
        assert wire.infer(["Boil the water first."])
        time.sleep(0.2)
    launcher.resume()
    time.sleep(1)
    assert wire.infer(["Boil the water first."])
    assert serving.process.poll() is None


def test_the_guard_is_what_callers_reach_and_triton_what_its_host_reaches() -> None:
    options = ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=None, cache_bytes=0)
    with Server(options) as server:
        assert server.grpc_address != server.triton_address
        index = service_pb2.RepositoryIndexRequest()
        assert [model.name for model in Wire(server.grpc_address).stub.RepositoryIndex(index).models] == ["rejection"]
        triton = Wire(server.triton_address).stub
        with pytest.raises(grpc.RpcError, match="This protocol is restricted"):
            triton.RepositoryIndex(index)
        assert triton.RepositoryIndex(index, metadata=list(server.admin_metadata.items())).models
        assert [psutil.Process(pid).is_running() for pid in server.pids] == [True, True]
    assert server.stop() == 0


def test_other_users_of_this_machine_stay_outside() -> None:
    options = ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=0, http_port=0, cache_bytes=0)
    with Server(options) as server:
        assert {mode_of(region) for region in Path("/dev/shm").glob(f"{server.runtime_folder.name}*")} == {0o600}
        assert mode_of(server.runtime_folder) == 0o700
        triton = psutil.Process(server.pid)
        listening = {c.laddr.port for c in triton.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert server.http_address is not None
        assert listening == {int(server.http_address.rpartition(":")[2])}, "nothing else of Triton's is on the network"
        (key,) = server.admin_metadata.values()
        for pid in (*server.pids, triton.ppid()):
            assert key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        for path in ("systemsharedmemory/status", "repository/index", "trace/setting", "logging"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(
                    f"{server.http_address}/v2/{path}", timeout=20, data=b"" if "index" in path else None
                )
            assert refused.value.code == 403
        asked = urllib.request.Request(f"{server.http_address}/v2/logging", headers={"admin-key": key})
        assert urllib.request.urlopen(asked, timeout=20).status == 200


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_callers_show_a_token_and_administrators_a_key(tmp_path: Path) -> None:
    for name, content in (("tokens", "token-of-a-caller-1\ntoken-of-a-caller-2\n"), ("key", "key-of-administration\n")):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(content)
    launched = Launched(
        REPOSITORY,
        *("--token-file", str(tmp_path / "tokens"), "--admin-key-file", str(tmp_path / "key"), "--host", "0.0.0.0"),
    )
    try:
        (said,) = [line.split()[1] for line in launched.output if "gRPC" in line]
        assert said.startswith("0.0.0.0:"), "where it is bound to"
        (hint,) = [line for line in launched.output if line.startswith("Try it")]
        assert f"--url 127.0.0.1:{said[8:]} --token-file {tmp_path / 'tokens'}" in hint
        with (
            RejectionClient(launched.address) as stranger,
            pytest.raises(AccessDeniedError, match="takes calls with a token only"),
        ):
            stranger.classify("Boil the water first.")
        with RejectionClient(launched.address, ClientConfig(token="token-of-a-caller-2")) as caller:
            assert caller.classify("Boil the water first.").label == "NORMAL"
        stub = Wire(launched.address).stub
        key = [(ADMIN_KEY, "key-of-administration")]
        unload = service_pb2.RepositoryModelUnloadRequest(model_name="rejection")
        with pytest.raises(grpc.RpcError, match="takes the key of administration"):
            stub.RepositoryModelUnload(unload, timeout=30, metadata=[("authorization", "Bearer token-of-a-caller-1")])
        stub.RepositoryModelUnload(unload, timeout=30, metadata=key)
        stub.RepositoryModelLoad(
            service_pb2.RepositoryModelLoadRequest(model_name="rejection"), timeout=60, metadata=key
        )
        assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=10).ready
    finally:
        launched.process.terminate()
        status, errors = launched.finish()
    assert status == 0
    assert "may call, and what they send" not in errors


def test_each_process_may_have_as_many_files_as_the_system_allows() -> None:
    hard = 3000
    launched = subprocess.Popen(
        [
            *("sh", "-c", f'ulimit -Sn 256; ulimit -Hn {hard}; exec "$@"', "-", sys.executable, "-m"),
            *("rejection_server", "serve", "--grpc-port", "0", "--metrics-port", "off"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert launched.stdout is not None
        address = next(line.split()[1] for line in launched.stdout if "gRPC" in line)
        (guardian,) = psutil.Process(launched.pid).children()
        for process in guardian.children(recursive=True):
            assert process.rlimit(psutil.RLIMIT_NOFILE) == (hard, hard), process.cmdline()[:3]
        wires = [Wire(address) for _ in range(300)]
        calls = [wire.send(request([f"Boil the water, {number}."])) for number, wire in enumerate(wires)]
        assert all(call.result() for call in calls)
    finally:
        launched.terminate()
        assert launched.wait(60) == 0


def test_callers_speak_tls(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificates with the command openssl, which is not installed")
    make_certificates(tmp_path)
    files = {"cert": "server.pem", "key": "server.key", "client-ca": "ca.pem"}
    launched = Launched(
        REPOSITORY, *(word for name, file in files.items() for word in (f"--tls-{name}", str(tmp_path / file)))
    )
    assert any("--tls" in line for line in launched.output if line.startswith("Try it"))
    tls = Tls(
        ca_path=tmp_path / "ca.pem",
        certificate_path=tmp_path / "client.pem",
        private_key_path=tmp_path / "client.key",
        server_name="triton.test",
    )
    with RejectionClient(launched.address, ClientConfig(tls=tls)) as client:
        assert client.classify("Sorry, but I can't assist with that.").label == "REJECTION"
    with RejectionClient(launched.address) as plain, pytest.raises(RejectionError):
        plain.classify("Sorry, but I can't assist with that.")
    launched.process.terminate()
    assert launched.finish()[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no-guard"], "no guard: whoever reaches the port can end or overload Triton"),
        (["--http-port", "0"], "HTTP is Triton's own and not guarded"),
        (
            ["--host", "0.0.0.0"],
            "whoever reaches 0.0.0.0 may call, and what they send can be read on the way: give --tls-",
        ),
    ],
)
def test_what_is_not_guarded_is_said_in_a_line(arguments: Sequence[str], words: str) -> None:
    launched = Launched(REPOSITORY, *arguments)
    has_guard = launched.guard is not None
    launched.process.terminate()
    status, errors = launched.finish()
    assert (status, has_guard) == (0, "--no-guard" not in arguments)
    assert errors.count(f"scripts/serve: {words}") == 1


def test_what_only_triton_itself_takes_is_refused_with_a_guard() -> None:
    done = subprocess.run(
        [*(sys.executable, "-m", "rejection_server", "serve", "--grpc-port", "0"), "--", "--grpc-use-ssl=1"],
        env={**os.environ, "REJECTION_SCRIPTS": "scripts"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"scripts/serve: --grpc-use-ssl is for callers of Triton itself.*--no-guard.*\n", done.stderr)
