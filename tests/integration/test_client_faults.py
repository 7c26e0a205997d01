"""Servers that are overloaded, slow, frozen, killed, replaced or cut off, and what the client makes of it."""

import asyncio
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from integration.client_servers import (
    Blocking,
    Cable,
    Gateway,
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
from support.kserve import Wire

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def replicas(repository):
    """Three servers on one port of three addresses."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    servers = start_servers(repository, HOSTS, port)
    yield servers
    stop_servers(servers)


@pytest.fixture
def one(replicas):
    return replicas[0]


@pytest.fixture
def cable(one):
    cable = Cable(one.grpc_address)
    yield cable
    cable.cut()


@pytest.fixture(params=[RejectionClient, Blocking], ids=["threads", "asyncio"])
def make_client(request):
    return request.param


def served(server):
    """Requests that the server has answered."""
    return Wire(server.grpc_address).statistics("rejection").inference_stats.success.count


def wait_for(path, content, within_s=5) -> None:
    deadline_s = time.monotonic() + within_s
    while not path.exists() or path.read_text() != content:
        assert time.monotonic() < deadline_s, f"{path.name} never said '{content}'"
        time.sleep(0.02)


# --- deadlines ---------------------------------------------------------------------------------------------------


def test_an_expired_deadline_ends_the_call_and_the_servers_work(one, make_client, tmp_path) -> None:
    with make_client(one.grpc_address) as client:
        client.model_info()
        started_s = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=r"0\.5 s"):
            client.classify(f"wait {tmp_path / 'mark'}", timeout_s=0.5)
        assert time.monotonic() - started_s < 2
        wait_for(tmp_path / "mark", "cancelled")


def test_a_cancelled_task_ends_the_servers_work(one, tmp_path) -> None:
    async def run() -> None:
        async with AsyncRejectionClient(one.grpc_address) as client:
            call = asyncio.create_task(client.classify(f"wait {tmp_path / 'mark'}"))
            await asyncio.to_thread(wait_for, tmp_path / "mark", "started")
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            await asyncio.to_thread(wait_for, tmp_path / "mark", "cancelled")

    asyncio.run(run())


def test_a_closed_stream_ends_the_servers_work(one, make_client, tmp_path) -> None:
    config = ClientConfig(max_texts_per_request=1, max_concurrent_requests=1)
    with make_client(one.grpc_address, config) as client:
        stream = client.stream(["quick", f"wait {tmp_path / 'mark'}", "never"])
        assert next(stream).index == 0
        wait_for(tmp_path / "mark", "started")
        stream.close()
        wait_for(tmp_path / "mark", "cancelled")


def test_closing_a_client_ends_its_calls(one, tmp_path) -> None:
    client = RejectionClient(one.grpc_address)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(client.classify, f"wait {tmp_path / 'mark'}")]
        wait_for(tmp_path / "mark", "started")
        calls.append(pool.submit(client.classify_many, ["sleep 1"] * 20))
        client.close()
        for call in calls:
            with pytest.raises((RequestCancelledError, RuntimeError)):
                call.result(5)
    wait_for(tmp_path / "mark", "cancelled")


def test_closing_an_asynchronous_client_ends_its_calls(one, tmp_path) -> None:
    async def run() -> None:
        client = AsyncRejectionClient(one.grpc_address)
        call = asyncio.create_task(client.classify(f"wait {tmp_path / 'mark'}"))
        await asyncio.to_thread(wait_for, tmp_path / "mark", "started")
        await client.close()
        with pytest.raises(RequestCancelledError):
            await call

    asyncio.run(run())


# --- one bad text ------------------------------------------------------------------------------------------------


def test_a_refusal_without_a_row_is_narrowed_down(one, make_client) -> None:
    texts = [f"text {n}" for n in range(20)]
    texts[13] = "bad"
    with make_client(one.grpc_address) as client:
        results = list(client.stream(texts))
    assert [result.index for result in results] == list(range(20))
    (failed,) = (result for result in results if result.prediction is None)
    assert failed.index == 13
    assert isinstance(failed.error, InvalidInputError)


# --- broken connections ------------------------------------------------------------------------------------------


def test_a_connection_cut_during_a_call_is_made_again(cable, make_client) -> None:
    with make_client(cable.address) as client:
        client.classify("hello")
        before = cable.connections
        threading.Timer(0.3, cable.cut_connections).start()
        assert client.classify("sleep 0.6 sorry").is_rejection()
        assert cable.connections == before + 1


def test_a_server_that_is_gone_for_good_is_not_an_overload(cable, make_client) -> None:
    with make_client(cable.address, ClientConfig(timeout_s=1.5)) as client:
        client.classify("hello")
        threading.Timer(0.3, cable.cut).start()
        with pytest.raises(ServerUnavailableError, match=cable.address):
            client.classify("sleep 0.6")


def test_a_server_killed_and_restarted_mid_stream_loses_nothing(repository, make_client) -> None:
    (server,) = start_servers(repository)
    port = int(server.grpc_address.rpartition(":")[2])
    texts = [f"{n} sorry" if n % 7 == 0 else f"{n}" for n in range(300)]
    again = []

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


def test_requests_are_spread_over_the_servers(replicas, make_client) -> None:
    before = [served(server) for server in replicas]
    with make_client([server.grpc_address for server in replicas]) as client:
        for _ in range(30):
            client.classify("hello")
    gained = [served(server) - count for server, count in zip(replicas, before, strict=True)]
    assert all(10 <= gain <= 11 for gain in gained), gained  # one more asked for the label names


def test_one_of_three_servers_frozen(replicas, make_client) -> None:
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


def test_a_server_added_to_the_name_gets_requests(replicas, make_client, monkeypatch) -> None:
    port = replicas[0].grpc_address.rpartition(":")[2]
    hosts = list(HOSTS[:1])
    real = socket.getaddrinfo

    def look_up(host, *arguments, **options):
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
def small_server(tmp_path_factory):
    """Lets two requests wait."""
    servers = start_servers(make_repository(tmp_path_factory.mktemp("small"), queue=2))
    yield servers[0]
    stop_servers(servers)


def test_an_overload_is_not_amplified(small_server) -> None:
    """At more than twice what the server can do: extra requests stay under a tenth, and the rest is told apart."""
    gateway = Gateway(small_server.grpc_address, workers=40)
    work_s, callers, calls_each = 0.05, 10, 20  # 20 a second is what it can do

    def call(client):
        outcomes = []
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
def crowded(server, seconds):
    """Inside, the server is busy and its queue is full, for so many seconds."""
    with RejectionClient(server.grpc_address, ClientConfig(max_attempts=1)) as other, ThreadPoolExecutor(4) as pool:
        other.model_info()
        crowd = [pool.submit(other.classify, f"sleep {seconds}")]
        time.sleep(0.05)  # it runs; the next two wait
        crowd += [pool.submit(other.classify, "hello") for _ in range(2)]
        time.sleep(0.05)
        yield
        assert [call.exception() for call in crowd] == [None] * 3


def test_a_passing_overload_is_waited_out(small_server, make_client) -> None:
    gateway = Gateway(small_server.grpc_address)
    try:
        with make_client(gateway.address, ClientConfig(max_attempts=6, retry_reserve=6)) as client:
            client.model_info()
            with crowded(small_server, 0.3):
                assert not client.classify("hello").is_rejection()
        assert sum(method == "ModelInfer" for method, _ in gateway.metadata) >= 3  # label names, refused, done
    finally:
        gateway.stop()


def test_no_retry_if_none_is_wanted(small_server, make_client) -> None:
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
