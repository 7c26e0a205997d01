"""Who is let in by a guard: tokens, the key of administration, and files that change while it serves."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from integration.guard_peer import INFER, STREAM_INFER, Peer, grpc_message
from integration.guard_process import GuardProcess
from rejection_server.guard.settings import ADMIN_KEY
from support.certificates import Authority
from support.kserve import Wire, request

OK, INVALID_ARGUMENT, PERMISSION_DENIED, UNAUTHENTICATED, UNKNOWN = 0, 3, 7, 16, 12
TOKEN, NEXT, KEY = "token-of-a-caller-1", "token-of-a-caller-2", "key-of-administration"
SERVICE = "/inference.GRPCInferenceService/"
HEALTH = ["/grpc.health.v1.Health/Check", f"{SERVICE}ServerLive", f"{SERVICE}ServerReady"]
MESSAGE = grpc_message(request(["a"]).SerializeToString())
SHOWS = "send one of its tokens as metadata, authorization: Bearer TOKEN"


def write(path: Path, *lines: str) -> Path:
    """Put a file in its place at once, as a well-behaved renewal does."""
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text("\n".join(lines) + "\n")
    new.replace(path)
    return path


def eventually(holds: Callable[[], bool], within_s: float = 20) -> bool:
    until = time.monotonic() + within_s
    while not (held := holds()) and time.monotonic() < until:
        time.sleep(0.05)
    return held


def status(peer: Peer, path: str, token: str = "", body: bytes | None = None, key: str = "") -> tuple[int, str]:
    extra = [("authorization", token)] if token else []
    return peer.status(
        peer.call(path, grpc_message(b"") if body is None else body, extra + [(ADMIN_KEY, key)] * bool(key))
    )


@pytest.fixture
def guard(triton: Any, tmp_path: Path) -> Iterator[GuardProcess]:
    with GuardProcess(
        triton.grpc_address,
        log=tmp_path / "log",
        token_file=write(tmp_path / "tokens", TOKEN),
        admin_key_file=write(tmp_path / "key", KEY),
        upstream_admin_key=triton.admin_metadata[ADMIN_KEY],
        reread_s=0.1,
    ) as guard:
        yield guard


def test_a_call_takes_a_token_and_health_takes_none(guard: GuardProcess) -> None:
    with Peer(guard.port) as peer:
        assert [status(peer, path)[0] for path in HEALTH] == [OK] * 3
        assert status(peer, INFER, f"Bearer {TOKEN}", MESSAGE) == (OK, "")
        assert status(peer, INFER, f"bearer  {TOKEN}", MESSAGE) == (OK, "")
        none = (UNAUTHENTICATED, f"this server takes calls with a token only: {SHOWS}")
        wrong = (UNAUTHENTICATED, f"the token sent is none of this server's: {SHOWS}")
        assert status(peer, INFER, "", MESSAGE) == status(peer, INFER, f"Basic {TOKEN}", MESSAGE) == none
        for other in (TOKEN[:-1], f"{TOKEN}x", TOKEN.upper(), NEXT):
            assert status(peer, INFER, f"Bearer {other}", MESSAGE) == wrong
        for path in (
            STREAM_INFER,
            *(f"{SERVICE}{name}" for name in ("ServerMetadata", "ModelReady", "ModelStatistics")),
        ):
            assert status(peer, path) == none
        assert status(peer, f"{SERVICE}NoSuchMethod")[0] == UNKNOWN
    assert guard.counts()["refused_by"]["unauthenticated"] == 10
    assert guard.counts()["under_way_bytes"] == 0


def test_tokens_are_exchanged_while_it_serves(guard: GuardProcess, tmp_path: Path) -> None:
    with Peer(guard.port) as peer:

        def lets(token: str) -> bool:
            return status(peer, INFER, f"Bearer {token}", MESSAGE)[0] == OK

        write(tmp_path / "tokens", TOKEN, NEXT)
        assert eventually(lambda: lets(NEXT))
        assert lets(TOKEN)
        write(tmp_path / "tokens", NEXT)
        assert eventually(lambda: not lets(TOKEN))
        assert lets(NEXT)
        write(tmp_path / "tokens", "short")
        log = tmp_path / "log"
        assert eventually(lambda: "has a secret of 5 characters" in log.read_text())
        assert lets(NEXT), "what was read before goes on to count"
        (tmp_path / "tokens").unlink()
        time.sleep(0.5)
        assert lets(NEXT)


def test_a_stream_ends_when_its_token_goes(guard: GuardProcess, tmp_path: Path) -> None:
    more = threading.Semaphore(1)
    ended = threading.Event()

    def requests() -> Iterator[Any]:
        while more.acquire() and not ended.is_set():
            yield request(["a"])

    answers = Wire(guard.address).stub.ModelStreamInfer(requests(), metadata=[("authorization", f"Bearer {TOKEN}")])
    assert not next(answers).error_message
    write(tmp_path / "tokens", NEXT)

    def go_on() -> None:
        for _ in range(100):
            more.release()
            next(answers)
            time.sleep(0.1)

    with pytest.raises(grpc.RpcError) as caught:
        go_on()
    ended.set()
    more.release()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


INDEX = f"{SERVICE}RepositoryIndex"
SETTINGS = ["TraceSetting", "LogSettings"]
CHANGING = ["RepositoryModelLoad", "RepositoryModelUnload"]
SHARED_MEMORY = [
    f"{kind}SharedMemory{what}" for kind in ("System", "Cuda") for what in ("Status", "Register", "Unregister")
]


def test_administration_takes_the_key(guard: GuardProcess, triton: Any) -> None:
    with Peer(guard.port) as peer:
        for name in ("RepositoryIndex", *SETTINGS):
            assert status(peer, f"{SERVICE}{name}", key=KEY) == (OK, "")
        for name in CHANGING:  # of a model without a name
            assert status(peer, f"{SERVICE}{name}", key=KEY)[0] != PERMISSION_DENIED
        for name in (*SETTINGS, *CHANGING):
            for wrong in ("", KEY[:-1], TOKEN, triton.admin_metadata[ADMIN_KEY]):
                code, words = status(peer, f"{SERVICE}{name}", f"Bearer {TOKEN}", key=wrong)
                assert code == PERMISSION_DENIED
                assert words.endswith("what all others get, so it takes the key of administration")
        for name in SHARED_MEMORY:
            assert status(peer, f"{SERVICE}{name}", f"Bearer {TOKEN}", key=KEY)[0] == PERMISSION_DENIED


@pytest.mark.parametrize("name", ["RepositoryIndex", *SETTINGS, *CHANGING, *SHARED_MEMORY])
def test_triton_itself_is_locked(triton: Any, name: str) -> None:
    call = getattr(Wire(triton.grpc_address).stub, name)
    ask = getattr(
        service_pb2,
        {"TraceSetting": "TraceSettingRequest", "LogSettings": "LogSettingsRequest"}.get(name, f"{name}Request"),
    )
    with pytest.raises(grpc.RpcError, match="This protocol is restricted") as caught:
        call(ask(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_without_a_key_file_administration_is_for_nobody(triton: Any) -> None:
    with GuardProcess(triton.grpc_address) as guard, Peer(guard.port) as peer:
        for key in ("", KEY, triton.admin_metadata[ADMIN_KEY]):
            assert status(peer, f"{SERVICE}LogSettings", key=key)[0] == PERMISSION_DENIED


def listed(wire: Wire, *, ready: bool = False, **metadata: str) -> list[tuple[str, str, str]]:
    asked = service_pb2.RepositoryIndexRequest(ready=ready)
    shown = [(name.replace("_", "-"), value) for name, value in metadata.items()]
    return [(m.name, m.version, m.state) for m in wire.stub.RepositoryIndex(asked, timeout=20, metadata=shown).models]


def test_everybody_is_told_the_public_models_and_whoever_has_the_key_all(guard: GuardProcess) -> None:
    wire, token = Wire(guard.address), f"Bearer {TOKEN}"
    for ready in (False, True):
        assert listed(wire, ready=ready, authorization=token) == [("rejection", "1", "READY")]
        everything = listed(wire, ready=ready, **{ADMIN_KEY: KEY})
        assert {name for name, _, _ in everything} == {"rejection", "scoring", "tokenizer", "classifier"}
    with Peer(guard.port) as peer:
        assert status(peer, INDEX)[0] == UNAUTHENTICATED
        assert status(peer, INDEX, f"Bearer {NEXT}")[0] == UNAUTHENTICATED
        for wrong in (KEY[:-1], TOKEN):
            code, words = status(peer, INDEX, f"Bearer {TOKEN}", key=wrong)
            assert code == PERMISSION_DENIED
            assert words.startswith("the key sent is not this server's key of administration: leave it out")
        assert status(peer, INDEX, f"Bearer {TOKEN}", grpc_message(b"x" * 5000))[0] == INVALID_ARGUMENT
    assert guard.counts()["calls"]["RepositoryIndex"]["OK"] == 4


# --- our own callers -----------------------------------------------------------------------------------------------


def run(*arguments: object, **environment: str) -> tuple[int, str]:
    """Exit status of `python ARGUMENT ...` and all that it said."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout


def test_the_command_sends_the_token_of_a_file(guard: GuardProcess, tmp_path: Path) -> None:
    classify = ("-m", "rejection_client", "classify", "--url", guard.address, "Boil the water first.")
    tokens = tmp_path / "tokens"
    for way, environment in ((("--token-file", tokens), {}), ((), {"REJECTION_TOKEN_FILE": str(tokens)})):
        status, said = run(*classify, *way, **environment)
        assert (status, "NORMAL" in said) == (0, True), said
    status, said = run(*classify)
    assert status == 1
    assert "denies access: this server takes calls with a token only" in said
    assert len(said.splitlines()) == 1
    status, said = run(*classify, "--token-file", tmp_path / "none")
    assert (status, len(said.splitlines())) == (2, 1)
    assert f"the token file {tmp_path / 'none'} cannot be read: No such file or directory" in said


def test_the_load_tests_send_it_too(guard: GuardProcess, tmp_path: Path) -> None:
    load = ("-m", "load.cli", "--url", guard.address, "--shape", "steady", "--rate", 5, "--duration", 2)
    goals = ("--goal", "answers=10", "--processes", 1, "--output", tmp_path / "reports")
    status, said = run(*load, *goals, "--token-file", tmp_path / "tokens")
    assert status == 0, said
    assert TOKEN not in "".join(path.read_text() for path in (tmp_path / "reports").rglob("*") if path.is_file())


# --- certificates --------------------------------------------------------------------------------------------------


class Callers:
    """Threads that call over TLS until they are stopped, each on a new connection every few calls."""

    def __init__(self, port: int, trusted: bytes, own: Sequence[Path] = ()) -> None:
        pair = {"private_key": own[1].read_bytes(), "certificate_chain": own[0].read_bytes()} if own else {}
        self._credentials = grpc.ssl_channel_credentials(trusted, **pair)
        self._address = f"127.0.0.1:{port}"
        self._stopped = threading.Event()
        self.answered = 0
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(calls,)) for calls in (1, 3, 1 << 30)]
        for thread in self._threads:
            thread.start()

    def _run(self, calls: int) -> None:
        options = [("grpc.ssl_target_name_override", "triton.test"), ("grpc.use_local_subchannel_pool", 1)]
        while not self._stopped.is_set():
            with grpc.secure_channel(self._address, self._credentials, options=options) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                for _ in range(calls):
                    if self._stopped.is_set():
                        return
                    try:
                        stub.ModelInfer(request(["a"]), timeout=60)
                        self.answered += 1
                    except grpc.RpcError as error:
                        self.errors.append(str(error))

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def number_of(port: int) -> str:
    """Serial number of the certificate that a new connection sees."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), 20) as raw, context.wrap_socket(raw) as connection:
        seen = connection.getpeercert(binary_form=True)
        assert seen is not None
        return ssl.DER_cert_to_PEM_cert(seen)


def test_a_certificate_is_renewed_and_no_call_is_lost(triton: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    names = ("first", "second", "third")
    pairs = [authority.issue(name, days=("2020", str(2090 + n))) for n, name in enumerate(names)]
    live = tmp_path / "live.pem", tmp_path / "live.key"

    def install(pair: tuple[Path, Path]) -> None:
        for source, target in zip(pair, live, strict=True):
            write(target, source.read_text())

    def ends(year: int) -> bool:
        return time.gmtime(serving.counts()["certificate_expires"]).tm_year == year

    install(pairs[0])
    log = tmp_path / "log"
    with GuardProcess(triton.grpc_address, log, tls_cert=live[0], tls_key=live[1], reread_s=0.1) as serving:
        callers = Callers(serving.port, authority.certificate.read_bytes())
        try:
            seen = {number_of(serving.port)}
            for year, pair in ((2091, pairs[1]), (2092, pairs[2])):
                install(pair)
                assert eventually(lambda year=year: ends(year))  # type: ignore[misc]
                assert number_of(serving.port) == pair[0].read_text().lstrip()
                seen.add(number_of(serving.port))
            assert len(seen) == 3
            write(live[1], "no key")
            assert eventually(lambda: "no PEM file with a private key" in log.read_text())
            assert "what was read before goes on to count" in log.read_text()
            assert number_of(serving.port) in seen
            before = callers.answered
            assert eventually(lambda: callers.answered > before + 20)
        finally:
            callers.stop()
        assert callers.errors == []
        assert ends(2092)


def test_the_authority_of_callers_is_exchanged(triton: Any, tmp_path: Path) -> None:
    ours, before, after = (Authority(tmp_path / name) for name in ("ours", "before", "after"))
    pair = ours.issue("server")
    callers = [authority.issue("caller", use="clientAuth") for authority in (before, after)]
    accepted = write(tmp_path / "callers.pem", before.certificate.read_text())

    def lets(caller: tuple[Path, Path]) -> bool:
        credentials = grpc.ssl_channel_credentials(
            ours.certificate.read_bytes(), caller[1].read_bytes(), caller[0].read_bytes()
        )
        options = [("grpc.ssl_target_name_override", "triton.test"), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(serving.address, credentials, options=options) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            error = stub.ModelInfer.future(request(["a"]), timeout=10).exception()
            assert error is None or error.code() is grpc.StatusCode.UNAVAILABLE
            return error is None

    with GuardProcess(
        triton.grpc_address, tls_cert=pair[0], tls_key=pair[1], tls_client_ca=accepted, reread_s=0.1
    ) as serving:
        assert [lets(caller) for caller in callers] == [True, False]
        write(accepted, after.certificate.read_text())
        assert eventually(lambda: lets(callers[1]))
        assert not lets(callers[0])
