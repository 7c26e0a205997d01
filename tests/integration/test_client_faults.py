"""Servers that are overloaded, slow, frozen, killed, replaced or cut off, and what the client makes of it."""

import asyncio
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from integration.client_servers import (
    Blocking,
    Cable,
    Gateway,
    MakeClient,
    NameServer,
    make_repository,
    start_servers,
    stop_servers,
)
from rejection_client import (
    AsyncRejectionClient,
    ClientConfig,
    DeadlineExceededError,
    InvalidInputError,
    OverloadedError,
    RejectionClient,
    RequestCancelledError,
    ServerUnavailableError,
)
from rejection_client._status import NO_VERSION
from rejection_client.channels import open_channels
from rejection_client.protocol import infer_request, ready_request
from rejection_server.host import Server
from support.kserve import Wire

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def replicas(repository: Path) -> Iterator[list[Server]]:
    """Three servers on one port of three addresses."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    servers = start_servers(repository, HOSTS, port)
    yield servers
    stop_servers(servers)


@pytest.fixture
def one(replicas: list[Server]) -> Server:
    return replicas[0]


@pytest.fixture
def cable(one: Server) -> Iterator[Cable]:
    cable = Cable(one.grpc_address)
    yield cable
    cable.cut()


@pytest.fixture(params=[RejectionClient, Blocking], ids=["threads", "asyncio"])
def make_client(request: pytest.FixtureRequest) -> MakeClient:
    made: MakeClient = request.param
    return made


def served(server: Server) -> int:
    """Requests that the server has answered."""
    wire: Any = Wire(server.grpc_address)
    return int(wire.statistics("rejection").inference_stats.success.count)


def wait_for(path: Path, content: str, within_s: float = 5) -> None:
    deadline_s = time.monotonic() + within_s
    while not path.exists() or path.read_text() != content:
        assert time.monotonic() < deadline_s, f"{path.name} never said '{content}'"
        time.sleep(0.02)


# --- deadlines ---------------------------------------------------------------------------------------------------


def test_an_expired_deadline_ends_the_call_and_the_servers_work(
    one: Server, make_client: MakeClient, tmp_path: Path
) -> None:
    with make_client(one.grpc_address) as client:
        client.model_info()
        started_s = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=r"0\.5 s"):
            client.classify(f"wait {tmp_path / 'mark'}", timeout_s=0.5)
        assert time.monotonic() - started_s < 2
        wait_for(tmp_path / "mark", "cancelled")


def test_a_cancelled_task_ends_the_servers_work(one: Server, tmp_path: Path) -> None:
    async def run() -> None:
        async with AsyncRejectionClient(one.grpc_address) as client:
            call = asyncio.create_task(client.classify(f"wait {tmp_path / 'mark'}"))
            await asyncio.to_thread(wait_for, tmp_path / "mark", "started")
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            await asyncio.to_thread(wait_for, tmp_path / "mark", "cancelled")

    asyncio.run(run())


def test_a_closed_stream_ends_the_servers_work(one: Server, make_client: MakeClient, tmp_path: Path) -> None:
    config = ClientConfig(max_texts_per_request=1, max_concurrent_requests=1)
    with make_client(one.grpc_address, config) as client:
        stream = client.stream(["quick", f"wait {tmp_path / 'mark'}", "never"])
        assert next(stream).index == 0
        wait_for(tmp_path / "mark", "started")
        stream.close()
        wait_for(tmp_path / "mark", "cancelled")


def test_closing_a_client_ends_its_calls(one: Server, tmp_path: Path) -> None:
    client = RejectionClient(one.grpc_address)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(client.classify, f"wait {tmp_path / 'mark'}")]
        wait_for(tmp_path / "mark", "started")
        calls.append(pool.submit(lambda: client.classify_many(["sleep 1"] * 20)[0]))
        client.close()
        for call in calls:
            with pytest.raises((RequestCancelledError, RuntimeError)):
                call.result(5)
    wait_for(tmp_path / "mark", "cancelled")


def test_closing_an_asynchronous_client_ends_its_calls(one: Server, tmp_path: Path) -> None:
    async def run() -> None:
        client = AsyncRejectionClient(one.grpc_address)
        call = asyncio.create_task(client.classify(f"wait {tmp_path / 'mark'}"))
        await asyncio.to_thread(wait_for, tmp_path / "mark", "started")
        await client.close()
        with pytest.raises(RequestCancelledError):
            await call

    asyncio.run(run())


# --- one bad text ------------------------------------------------------------------------------------------------


def test_a_refusal_without_a_row_is_narrowed_down(one: Server, make_client: MakeClient) -> None:
    texts = [f"text {n}" for n in range(20)]
    texts[13] = "bad"
    with make_client(one.grpc_address) as client:
        results = list(client.stream(texts))
    assert [result.index for result in results] == list(range(20))
    (failed,) = (result for result in results if result.prediction is None)
    assert failed.index == 13
    assert isinstance(failed.error, InvalidInputError)


# --- broken connections ------------------------------------------------------------------------------------------


def test_a_connection_cut_during_a_call_is_made_again(cable: Cable, make_client: MakeClient) -> None:
    with make_client(cable.address) as client:
        client.classify("hello")
        before = cable.connections
        threading.Timer(0.3, cable.cut_connections).start()
        assert client.classify("sleep 0.6 sorry").is_rejection()
        assert cable.connections == before + 1


def test_channels_are_separate_connections(cable: Cable) -> None:
    channels = open_channels(cable.address, count=3)
    for channel in channels:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ModelReady(ready_request("rejection"), timeout=10).ready
    assert cable.connections == 3
    for channel in channels:
        channel.close()


def test_asynchronous_channels_ask_too(one: Server) -> None:
    async def run() -> None:
        (channel,) = open_channels(one.grpc_address, aio=True)
        async with channel:
            stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert (await stub.ModelReady(ready_request("rejection"), timeout=10)).ready

    asyncio.run(run())


def test_a_server_that_is_gone_for_good_is_not_an_overload(cable: Cable, make_client: MakeClient) -> None:
    with make_client(cable.address, ClientConfig(timeout_s=1.5)) as client:
        client.classify("hello")
        threading.Timer(0.3, cable.cut).start()
        with pytest.raises(ServerUnavailableError, match=cable.address):
            client.classify("sleep 0.6")


def test_a_server_killed_and_restarted_mid_stream_loses_nothing(repository: Path, make_client: MakeClient) -> None:
    (server,) = start_servers(repository)
    port = int(server.grpc_address.rpartition(":")[2])
    texts = [f"{n} sorry" if n % 7 == 0 else f"{n}" for n in range(300)]
    again: list[Server] = []

    def restart() -> None:
        again.extend(start_servers(repository, port=port))

    restarting = threading.Thread(target=restart)
    try:
        with make_client(server.grpc_address, ClientConfig(timeout_s=40, max_texts_per_request=4)) as client:
            results = []
            for result in client.stream(texts):
                results.append(result)
                if result.index == 50:
                    server.kill()
                    server.wait()
                    restarting.start()
    finally:
        restarting.join()
        stop_servers([server, *again])
    assert [result.error for result in results if result.error is not None] == []
    assert [(result.index, result.text) for result in results] == list(enumerate(texts))
    assert [result.unwrap().is_rejection() for result in results] == [n % 7 == 0 for n in range(300)]


# --- several servers ---------------------------------------------------------------------------------------------


def test_requests_are_spread_over_the_servers(replicas: list[Server], make_client: MakeClient) -> None:
    before = [served(server) for server in replicas]
    with make_client([server.grpc_address for server in replicas]) as client:
        for _ in range(30):
            client.classify("hello")
    gained = [served(server) - count for server, count in zip(replicas, before, strict=True)]
    assert all(10 <= gain <= 11 for gain in gained), gained  # one more asked for the label names


def test_one_of_three_servers_frozen(replicas: list[Server], make_client: MakeClient) -> None:
    frozen = replicas[1]
    with make_client([server.grpc_address for server in replicas]) as client:
        for _ in range(6):
            client.classify("hello")
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            slow_s = []
            for _ in range(30):
                started_s = time.monotonic()
                client.classify("hello")
                slow_s.append(time.monotonic() - started_s)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        # One request finds out; the next ones are spared.
        assert sum(seconds > 0.8 for seconds in slow_s) <= 1, slow_s
        assert max(slow_s) < 5
        before = served(frozen)
        deadline_s = time.monotonic() + 10
        while served(frozen) == before:
            assert time.monotonic() < deadline_s, "it was not taken back"
            client.classify("hello")
            time.sleep(0.05)


def test_a_model_unloaded_at_one_server_is_asked_of_the_other(repository: Path, make_client: MakeClient) -> None:
    """What each of two servers says while it stops, held still: the model is known, and has no version."""
    explicit = ("--model-control-mode=explicit", "--load-model=rejection")
    pair = start_servers(repository, HOSTS[:2], triton_arguments=explicit)
    addresses = [server.grpc_address for server in pair]
    wires: list[Any] = [Wire(address) for address in addresses]
    key = list(pair[0].admin_metadata.items())
    try:
        with make_client(addresses) as client, make_client(addresses[0]) as single:
            client.classify("hello"), single.classify("hello")
            wires[0].stub.RepositoryModelUnload(
                service_pb2.RepositoryModelUnloadRequest(model_name="rejection"), metadata=key
            )
            code, words = wires[0].error(infer_request("rejection", ["hello"]))
            assert (code, NO_VERSION in words) == (grpc.StatusCode.NOT_FOUND, True)
            for _ in range(6):
                client.classify("hello")
            assert [result.error for result in client.stream(["hello"] * 20)] == [None] * 20
            with pytest.raises(ServerUnavailableError, match="no version of 'rejection' now"):
                single.classify("hello", timeout_s=0.5)
            wires[0].stub.RepositoryModelLoad(
                service_pb2.RepositoryModelLoadRequest(model_name="rejection"), metadata=key
            )
            before = served(pair[0])
            single.classify("hello")
            assert served(pair[0]) == before + 1
    finally:
        stop_servers(pair)


def test_restarts_of_two_servers_cost_no_call(repository: Path) -> None:
    """Eight callers, of each client and as streams, while one server after the other is stopped and started again.

    Triton, while it stops, says of a model that it has unloaded that it is not found.
    """
    pair = start_servers(repository, HOSTS[:2])
    addresses = [server.grpc_address for server in pair]
    over = threading.Event()
    ends = ClientConfig(timeout_s=60)

    def call(client: RejectionClient) -> int:
        calls = 0
        while not over.is_set():
            client.classify("sleep 0.01")
            calls += 1
        return calls

    def texts() -> Iterator[str]:
        while not over.is_set():
            yield "sleep 0.01"

    def stream(client: RejectionClient) -> int:
        results = list(client.stream(texts()))
        assert [result.error for result in results if result.error is not None] == []
        return len(results)

    with (
        RejectionClient(addresses, ends) as first,
        cast("RejectionClient", Blocking(addresses, ends)) as second,
        ThreadPoolExecutor(8) as pool,
    ):
        first.model_info(), second.model_info()
        callers = [pool.submit(call, client) for client in (first, first, first, second, second, second)]
        callers += [pool.submit(stream, client) for client in (first, second)]
        try:
            for server in pair:
                host, _, port = server.grpc_address.partition(":")
                before = served(server)
                while served(server) == before and not any(caller.done() for caller in callers):
                    time.sleep(0.02)
                server.stop()
                pair[pair.index(server)] = start_servers(repository, (host,), int(port))[0]
        finally:
            over.set()
        assert all(caller.result() > 0 for caller in callers)
    stop_servers(pair)


def test_a_server_added_to_the_name_gets_requests(
    replicas: list[Server], make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = replicas[0].grpc_address.rpartition(":")[2]
    hosts = list(HOSTS[:1])
    real = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **options: Any) -> Any:
        if host != "replicas.test":
            return real(host, *arguments, **options)
        return [entry for ip in hosts for entry in real(ip, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with make_client(f"replicas.test:{port}", ClientConfig(resolve_every_s=0.3)) as client:
        before = [served(server) for server in replicas]
        for _ in range(5):
            client.classify("hello")
        assert [served(server) > count for server, count in zip(replicas, before, strict=True)] == [True, False, False]
        hosts[:] = HOSTS[1:]  # two new ones, and the first is gone
        deadline_s = time.monotonic() + 10
        while not all(served(server) > count for server, count in zip(replicas, before, strict=True)):
            assert time.monotonic() < deadline_s
            client.classify("hello")
            time.sleep(0.05)
        first = served(replicas[0])
        for _ in range(6):
            client.classify("hello")
        assert served(replicas[0]) == first


# --- overload ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Lets two requests wait."""
    servers = start_servers(make_repository(tmp_path_factory.mktemp("small"), queue=2))
    yield servers[0]
    stop_servers(servers)


def test_an_overload_is_not_amplified(small_server: Server) -> None:
    """At more than twice what the server can do: extra requests stay under a tenth, and the rest is told apart."""
    gateway = Gateway(small_server.grpc_address, workers=40)
    work_s, callers, calls_each = 0.05, 10, 20  # 20 a second is what it can do

    def call(client: RejectionClient) -> list[OverloadedError | None]:
        outcomes: list[OverloadedError | None] = []
        for _ in range(calls_each):
            started_s = time.monotonic()
            try:
                client.classify(f"sleep {work_s}")
                outcomes.append(None)
            except OverloadedError as error:
                outcomes.append(error)
            # Each caller asks four times a second: 40 a second in all.
            time.sleep(max(0.0, 0.25 - (time.monotonic() - started_s)))
        return outcomes

    try:
        with RejectionClient(gateway.address) as client, ThreadPoolExecutor(callers) as pool:
            client.model_info()
            gateway.metadata.clear()
            outcomes = [outcome for outcomes in pool.map(call, [client] * callers) for outcome in outcomes]
        sent = sum(method == "ModelInfer" for method, _ in gateway.metadata)
        asked = sum(method == "ModelReady" for method, _ in gateway.metadata)
    finally:
        gateway.stop()
    refused = sum(outcome is not None for outcome in outcomes)
    assert refused > 0.2 * len(outcomes), "no overload"
    assert refused < 0.9 * len(outcomes), "nothing was done"
    assert sent <= 1.1 * len(outcomes)
    assert asked < 0.25 * len(outcomes)


@contextmanager
def crowded(server: Server, seconds: float) -> Iterator[None]:
    """Inside, the server is busy and its queue is full, for so many seconds."""
    config = ClientConfig(max_attempts=1)
    with (
        RejectionClient(server.grpc_address, config) as other,
        ThreadPoolExecutor(4) as pool,
        tempfile.TemporaryDirectory() as folder,
    ):
        other.model_info()
        mark = Path(folder, "mark")
        crowd = [pool.submit(other.classify, f"sleep {seconds} {mark}")]
        wait_for(mark, "started")
        crowd += [pool.submit(other.classify, "hello") for _ in range(3)]
        refused, _ = wait(crowd, return_when=FIRST_EXCEPTION)
        yield
        assert len(refused) == 1, "one runs, two wait"
        errors = [error for call in crowd if (error := call.exception()) is not None]
        assert [type(error) for error in errors] == [OverloadedError]


def test_the_words_of_a_server_that_stops_are_no_overload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two servers is held while it stops, by what waits in its queue: it was ready a moment ago, and refuses."""
    monkeypatch.setattr("rejection_client._transport.LOOK_COUNTS_S", 60.0)
    pair = start_servers(make_repository(tmp_path, queue=2), HOSTS[:2])
    stopping, wire = pair[0], cast("Any", Wire(pair[0].grpc_address))
    try:
        with RejectionClient([server.grpc_address for server in pair], ClientConfig(max_attempts=1)) as client:
            client.classify("hello"), client.classify("hello")
            with crowded(stopping, 3):
                with pytest.raises(OverloadedError):
                    [client.classify("hello") for _ in pair]
                stopping.request_stop()
                while "maximum queue size" in (refusal := wire.error(infer_request("rejection", ["hello"])))[1]:
                    time.sleep(0.02)
                for _ in range(6):
                    client.classify("hello")
                assert wire.error(infer_request("rejection", ["hello"])) == refusal
                assert refusal[0] is grpc.StatusCode.UNAVAILABLE
                assert "Server is stopping" in refusal[1]
    finally:
        stop_servers(pair)


def test_a_passing_overload_is_waited_out(small_server: Server, make_client: MakeClient) -> None:
    gateway = Gateway(small_server.grpc_address)
    try:
        with make_client(gateway.address, ClientConfig(max_attempts=6, retry_reserve=6)) as client:
            client.model_info()
            with crowded(small_server, 0.5):
                assert not client.classify("hello").is_rejection()
        assert sum(method == "ModelInfer" for method, _ in gateway.metadata) >= 3  # label names, refused, done
    finally:
        gateway.stop()


def test_no_retry_if_none_is_wanted(small_server: Server, make_client: MakeClient) -> None:
    gateway = Gateway(small_server.grpc_address)
    try:
        with make_client(gateway.address, ClientConfig(max_attempts=1)) as client:
            client.model_info()
            gateway.metadata.clear()
            with crowded(small_server, 0.5), pytest.raises(OverloadedError):
                client.classify("hello")
        assert sum(method == "ModelInfer" for method, _ in gateway.metadata) == 1
    finally:
        gateway.stop()


# --- what gRPC does not do by itself: why the client has parts of its own ------------------------------------------

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{}],
            "waitForReady": True,
            "retryPolicy": {
                "maxAttempts": 7,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.05s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.05},
}


@contextmanager
def plain_grpc(target: str) -> Iterator[Callable[[float], grpc.StatusCode]]:
    """gRPC with all that a service config can ask for; calls it with a deadline, and gives the status."""
    options = [("grpc.service_config", json.dumps(SERVICE_CONFIG)), ("grpc.keepalive_time_ms", 310_000)]
    with grpc.insecure_channel(target, options=options) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def call(timeout_s: float) -> grpc.StatusCode:
            try:
                stub.ModelInfer(infer_request("rejection", ["hello"]), timeout=timeout_s)
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        yield call


def test_grpc_keeps_sending_to_a_frozen_server(replicas: list[Server]) -> None:
    """What the client does: `test_one_of_three_servers_frozen`."""
    with plain_grpc("ipv4:" + ",".join(server.grpc_address for server in replicas)) as call:
        assert [call(10) for _ in range(9)] == [grpc.StatusCode.OK] * 9
        os.kill(replicas[1].pid, signal.SIGSTOP)
        try:
            codes = [call(1) for _ in range(9)]
        finally:
            os.kill(replicas[1].pid, signal.SIGCONT)
    assert codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) >= 3, codes


def test_grpc_does_not_see_a_server_added_to_a_name(replicas: list[Server]) -> None:
    """What the client does: `test_a_server_added_to_the_name_gets_requests`."""
    port = replicas[0].grpc_address.rpartition(":")[2]
    with NameServer(HOSTS[0]) as names, plain_grpc(f"dns://{names.address}/replicas.test:{port}") as call:
        assert call(10) is grpc.StatusCode.OK
        names.hosts = HOSTS[1:]
        before = [served(server) for server in replicas]
        assert [call(10) for _ in range(20)] == [grpc.StatusCode.OK] * 20
        time.sleep(1)
        assert [call(10) for _ in range(20)] == [grpc.StatusCode.OK] * 20
    assert [served(server) > count for server, count in zip(replicas, before, strict=True)] == [True, False, False]


def test_grpc_takes_one_name_the_client_several(replicas: list[Server], make_client: MakeClient) -> None:
    port = replicas[0].grpc_address.rpartition(":")[2]
    url = f"localhost:{port},{HOSTS[1]}:{port}"
    with plain_grpc(f"dns:///{url}") as call:
        assert call(1) is not grpc.StatusCode.OK
    before = [served(server) for server in replicas]
    with make_client(url) as client:
        for _ in range(10):
            client.classify("hello")
    assert [served(server) > count for server, count in zip(replicas, before, strict=True)] == [True, True, False]


def test_grpc_sends_five_times_at_most_the_client_as_often_as_it_is_told(small_server: Server) -> None:
    gateway = Gateway(small_server.grpc_address)
    config = ClientConfig(max_attempts=7, retry_reserve=7, backoff_initial_s=0.05, backoff_max_s=0.05)
    try:
        with RejectionClient(gateway.address, config) as client, plain_grpc(gateway.address) as call:
            client.model_info()
            with crowded(small_server, 3):
                gateway.metadata.clear()
                assert call(10) is grpc.StatusCode.UNAVAILABLE
                by_grpc = [method for method, _ in gateway.metadata].count("ModelInfer")
                gateway.metadata.clear()
                with pytest.raises(OverloadedError):
                    client.classify("hello")
                by_client = [method for method, _ in gateway.metadata].count("ModelInfer")
    finally:
        gateway.stop()
    assert (by_grpc, by_client) == (5, 7)
