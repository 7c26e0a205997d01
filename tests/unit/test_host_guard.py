"""What the guard is told of a repository, and what of an embedded Triton needs that there is none."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from rejection_server.guard import GuardSettings
from rejection_server.guard.settings import ModelLimits
from rejection_server.host.access import check_access
from rejection_server.host.errors import GuardError, OptionError, PortTakenError
from rejection_server.host.guard_link import GuardLink, guard_settings
from rejection_server.host.options import Endpoints, ServeOptions, choose_endpoints, is_loopback, triton_command
from rejection_server.host.sizing import sized_repository
from rejection_server.names import Names
from rejection_server.prepare.configuration import Shape, configurations
from support.certificates import Authority
from support.host_runtime import RUNTIME
from support.repository import REPOSITORY

ENDPOINTS = Endpoints("0.0.0.0", 1, None, 2, True, sockets=Path("/run/it"))


def options(**changes: Any) -> ServeOptions:
    return dataclasses.replace(ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=0), **changes)


def settings(repository: Path, **changes: Any) -> GuardSettings:
    return guard_settings(options(**changes), ENDPOINTS, repository, "k")


def write(repository: Path, model: str, config: str, file: str = "config.pbtxt") -> None:
    path = repository / model / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config)


def test_the_bundled_repository() -> None:
    found = settings(REPOSITORY, exit_timeout_s=7)
    assert found.public_models == ("rejection",)
    assert (found.upstream, found.host, found.port) == ("unix:/run/it/grpc:1", "0.0.0.0", 1)
    assert (found.max_requests, found.drain_timeout_s) == (512, 7.0)
    limits = ModelLimits(max_requests=512, max_upstream_requests=32, max_upstream_long=1, read_bytes=2048)
    assert found.models == {"rejection": limits}


def test_there_is_one_guard_unless_more_are_asked_for() -> None:
    assert settings(REPOSITORY, cores=64).processes == 1
    assert settings(REPOSITORY, cores=2, guards=3).processes == 3
    with pytest.raises(OptionError, match="--guards 0 is too few"):
        triton_command(options(guards=0), ENDPOINTS, RUNTIME)


def test_metrics_of_both_are_published_by_the_guard_or_by_nobody() -> None:
    found = settings(REPOSITORY)
    assert (found.metrics_host, found.metrics_port) == ("0.0.0.0", 2)
    assert found.upstream_metrics == "unix:/run/it/metrics"
    private = dataclasses.replace(ENDPOINTS, publishes_metrics=False)
    assert guard_settings(options(), private, REPOSITORY, "k").metrics_port is None


def test_public_are_the_models_that_are_no_step_of_another(tmp_path: Path) -> None:
    write(tmp_path, "front", 'platform: "ensemble" ensemble_scheduling { step [ { model_name: "back" } ] }')
    write(tmp_path, "back", 'backend: "python"')
    write(tmp_path, "broken", "no such field: 1")
    (tmp_path / "bare" / "1").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    assert settings(tmp_path).public_models == ("bare", "broken", "front")
    write(tmp_path, "front", 'platform: "ensemble"', "configs/alone.pbtxt")
    assert settings(tmp_path, model_config_name="alone").public_models == ("back", "bare", "broken", "front")


@pytest.mark.parametrize(
    ("config", "most", "upstream"),
    [
        ("max_batch_size: 64 instance_group [ { count: 1 } ] dynamic_batching {}", 512, 128),
        ("max_batch_size: 64 instance_group [ { count: 20 } ]", 512, 40),
        ("max_batch_size: 64 instance_group [ { count: 5 kind: KIND_GPU gpus: [ 0, 1, 2, 3 ] } ]", 512, 40),
        (
            "max_batch_size: 64 instance_group [ { count: 1 }, { count: 15 } ] "
            "dynamic_batching { preferred_batch_size: [ 8 ] }",
            512,
            256,
        ),
        ("max_batch_size: 64 instance_group [ { count: 64 } ] dynamic_batching {}", 512, 512),
        ("max_batch_size: 8", 512, 16),
        ('parameters { key: "max_pending_requests" value { string_value: "16" } }', 16, 16),
        ('parameters { key: "max_pending_requests" value { string_value: "0" } }', 1 << 30, 16),
    ],
)
def test_bounds(tmp_path: Path, config: str, most: int, upstream: int) -> None:
    write(tmp_path, "model", config)
    found = settings(tmp_path)
    assert (found.max_requests, found.models["model"].max_upstream_requests) == (most, upstream)


def test_each_classifier_has_bounds_of_its_own(tmp_path: Path) -> None:
    for name, length in (("rejection", 512), ("toxicity", 128)):
        for file, content in configurations(Shape(("a", "b"), length), Names(name)).items():
            write(tmp_path / "all", str(Path(file).parent), content, Path(file).name)
    sized = sized_repository(tmp_path / "all", 12, tmp_path / "sized", {"toxicity": 2}).repository
    found = settings(sized)
    assert found.public_models == ("rejection", "toxicity")
    assert found.models == {
        "rejection": ModelLimits(max_requests=512, max_upstream_requests=64, max_upstream_long=3, read_bytes=2048),
        "toxicity": ModelLimits(max_requests=512, max_upstream_requests=128, max_upstream_long=7, read_bytes=512),
    }
    assert found.max_requests == 1024
    assert found.labels == {"rejection": ("a", "b"), "toxicity": ("a", "b"), "classifier": ("a", "b")} | {
        "toxicity_classifier": ("a", "b")
    }


def test_triton_is_on_sockets_behind_the_guard() -> None:
    command = triton_command(options(), Endpoints("::", 1, 4, 2, True, sockets=Path("/run/it")), RUNTIME)
    assert {"--grpc-address=unix:/run/it/grpc", "--grpc-port=1"} < set(command)
    assert {"--http-address=ipv6:::", "--http-port=4", "--metrics-address=unix:/run/it/metrics"} < set(command)
    assert ENDPOINTS.grpc == "127.0.0.1:1"
    assert ENDPOINTS.triton == "unix:/run/it/grpc:1"
    assert ENDPOINTS.listeners == ("/run/it/grpc:1", "/run/it/metrics")
    assert ENDPOINTS.metrics == "http://127.0.0.1:2/metrics"
    assert ENDPOINTS.models_metrics == "unix:/run/it/metrics"
    unguarded = choose_endpoints(options(guard=False))
    assert unguarded.sockets is None
    assert unguarded.triton == unguarded.grpc


@pytest.mark.parametrize("argument", ["--grpc-use-ssl=1", "--grpc-keepalive-time=1", "--reuse-grpc-port=1"])
def test_arguments_that_need_a_triton_without_guard(argument: str) -> None:
    with pytest.raises(OptionError, match=rf"{argument.partition('=')[0]} is for callers of Triton .* --no-guard"):
        triton_command(options(triton_arguments=(argument,)), ENDPOINTS, RUNTIME)
    bare = Endpoints("127.0.0.1", 1, None, 2, True)
    assert argument in triton_command(options(guard=False, triton_arguments=(argument,)), bare, RUNTIME)


@pytest.mark.parametrize("argument", ["--model-control-mode=explicit", "--load-model=*", "--repository-poll-secs=5"])
def test_arguments_that_need_a_key_of_administration(argument: str) -> None:
    given = options(triton_arguments=(argument,))
    with pytest.raises(
        OptionError, match=rf"{argument.partition('=')[0]} is for whoever administers .* --admin-key-file"
    ):
        triton_command(given, ENDPOINTS, RUNTIME)
    for fitting in (dataclasses.replace(given, guard=False), dataclasses.replace(given, admin_key_file=Path("key"))):
        assert argument in triton_command(fitting, ENDPOINTS, RUNTIME)


@pytest.mark.parametrize("argument", ["--grpc-restricted-protocol=health:a=b", "--http-restricted-api=health:a=b"])
@pytest.mark.parametrize("guard", [True, False])
def test_what_is_locked_already(argument: str, guard: bool) -> None:
    with pytest.raises(OptionError, match="cannot follow `--`: use --admin-key-file instead"):
        triton_command(options(triton_arguments=(argument,), guard=guard), ENDPOINTS, RUNTIME)


@pytest.mark.parametrize("guard", [True, False])
def test_administration_is_locked_on_every_port(guard: bool) -> None:
    endpoints = Endpoints("127.0.0.1", 1, 4, 2, True, sockets=Path("/run/it") if guard else None)
    command = triton_command(options(guard=guard, http_port=4), endpoints, RUNTIME)
    locked = "shared-memory,model-repository,trace,logging:admin-key=k"
    assert {f"--grpc-restricted-protocol={locked}", f"--http-restricted-api={locked}"} < set(command)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tls_key": "k.pem"}, "give --tls-cert and --tls-key"),
        ({"tls_client_ca": "a.pem"}, "give --tls-cert and --tls-key"),
        ({"tls_cert": "c.pem", "tls_key": "k.pem"}, r"the certificate .*c\.pem cannot be read \(No such file"),
        ({"tls_cert": "bad.pem", "tls_key": "bad.pem"}, "is no PEM file with a certificate"),
        ({"tls_cert": "c.pem", "tls_key": "k.pem", "guard": False}, "leave out --no-guard, or --tls-cert"),
        ({"token_file": "none"}, r"none cannot be read \(No such file"),
        ({"token_file": "good", "guard": False}, "leave out --no-guard, or --token-file"),
        ({"token_file": "good", "http_port": 0}, "lets in callers whom --token-file keeps out: leave out --http-port"),
        ({"tls_client_ca": "c.pem", "http_port": 0}, "whom --tls-client-ca keeps out: leave out --http-port"),
        ({"admin_key_file": "bad.pem"}, "has a secret, its number 1"),
        ({"admin_key_file": "two"}, "has 2 lines: have one key in it"),
    ],
)
def test_files_that_cannot_let_anybody_in(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    for name, content in (("bad.pem", "not a certificate"), ("good", "x" * 16), ("two", "x" * 16 + "\n" + "y" * 16)):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(content)
    files = {name: tmp_path / value if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises(OptionError, match=words):
        check_access(options(**files))


def test_the_key_of_administration(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text("k" * 20)
    assert check_access(options(guard=False, admin_key_file=file)) == "k" * 20
    behind_a_guard = {check_access(options(admin_key_file=given)) for given in (file, file, None, None)}
    assert len(behind_a_guard) == 4, "nobody knows it but the guard"
    assert min(map(len, behind_a_guard)) >= 32


def test_a_certificate_that_ends_soon_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority(tmp_path / "authority")  # whose own has nine days left
    soon = {"tls_cert": authority.certificate, "tls_key": authority.folder / "ca.key"}
    certificate, key = authority.issue("server")
    check_access(options(tls_cert=certificate, tls_key=key))
    assert caplog.messages == []
    check_access(options(**soon))
    (said,) = caplog.messages
    assert re.fullmatch(r"the certificate .*/ca\.pem ends in 9\.0 days: put a new one in its place, .*", said)


def test_a_key_that_everybody_may_read_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificate, key = Authority(tmp_path / "authority").issue("server")
    key.chmod(0o644)
    check_access(options(tls_cert=certificate, tls_key=key))
    (said,) = caplog.messages
    assert said == f"the key {key} can be read by every user of this machine: chmod o-r {key}"


def test_who_reaches_an_address() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost", "no such name"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::"))


@pytest.fixture
def link() -> Any:
    """A link, its events, and the guard's ends of its pipes."""
    events: list[Any] = []
    link = GuardLink(events.append)
    ends = [os.dup(descriptor) for descriptor in link.child_fds]
    link.given()
    yield link, events, ends
    link.close()
    for descriptor in ends:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ({"error": "[Errno 98] Address already in use"}, PortTakenError, "port 1 of 0.0.0.0, wanted for gRPC"),
        ({"error": "no library"}, GuardError, "the guard cannot listen on 0.0.0.0, port 1: no library"),
    ],
)
def test_a_guard_that_cannot_begin(link: Any, answer: Any, error: type[Exception], words: str) -> None:
    link, _, ends = link
    os.write(ends[1], json.dumps(answer).encode() + b"\n")
    with pytest.raises(error, match=words):
        link.begin(settings(REPOSITORY))


def test_settings_signs_of_life_and_events_pass(link: Any) -> None:
    link, events, ends = link
    os.write(ends[1], b'{"port": 1, "pid": 2}\n')
    link.begin(settings(REPOSITORY))
    assert GuardSettings.from_json(os.read(ends[0], 65536).decode()) == settings(REPOSITORY)
    link.ask()
    assert os.read(ends[0], 100) == b"\n"
    os.write(ends[1], b'{"event": "unhealthy", "message": "m"}\n{"port": 3}\n')
    link.begin(settings(REPOSITORY))
    assert events == [{"event": "unhealthy", "message": "m"}]
    assert link.heard_at > 0


def test_a_repository_is_only_read(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "rejection", tmp_path / "rejection")
    before = sorted(tmp_path.rglob("*"))
    settings(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
