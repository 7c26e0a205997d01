"""What the guard is told of a repository, and what of an embedded Triton needs that there is none."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from rejection_server.guard import GuardSettings
from rejection_server.host.errors import GuardError, OptionError, PortTakenError
from rejection_server.host.guard_link import GuardLink, guard_settings
from rejection_server.host.options import Endpoints, ServeOptions, check_tls, choose_endpoints, triton_command
from support.host_runtime import RUNTIME
from support.repository import REPOSITORY

ENDPOINTS = Endpoints("0.0.0.0", 1, None, 2, True, guarded=(3, 5))


def options(**changes: Any) -> ServeOptions:
    return dataclasses.replace(ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=0), **changes)


def settings(repository: Path, **changes: Any) -> GuardSettings:
    return guard_settings(options(**changes), ENDPOINTS, repository)


def write(repository: Path, model: str, config: str, file: str = "config.pbtxt") -> None:
    path = repository / model / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config)


def test_the_bundled_repository() -> None:
    found = settings(REPOSITORY, exit_timeout_s=7)
    assert found.public_models == ("rejection",)
    assert (found.upstream, found.host, found.port) == ("127.0.0.1:3", "0.0.0.0", 1)
    assert (found.max_requests, found.max_upstream_requests, found.drain_timeout_s) == (512, 32, 7.0)


def test_metrics_of_both_are_published_by_the_guard_or_by_nobody() -> None:
    found = settings(REPOSITORY)
    assert (found.metrics_host, found.metrics_port) == ("0.0.0.0", 2)
    assert found.upstream_metrics == "http://127.0.0.1:5/metrics"
    private = dataclasses.replace(ENDPOINTS, publishes_metrics=False)
    assert guard_settings(options(), private, REPOSITORY).metrics_port is None


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
    assert (found.max_requests, found.max_upstream_requests) == (most, upstream)


def test_triton_is_on_loopback_behind_the_guard() -> None:
    command = triton_command(options(), Endpoints("::", 1, 4, 2, True, guarded=(3, 5)), RUNTIME)
    assert {"--grpc-address=127.0.0.1", "--grpc-port=3", "--http-address=ipv6:::", "--http-port=4"} < set(command)
    assert {"--metrics-address=127.0.0.1", "--metrics-port=5"} < set(command)
    assert ENDPOINTS.grpc == "127.0.0.1:1"
    assert ENDPOINTS.triton == "127.0.0.1:3"
    assert ENDPOINTS.listeners == (("127.0.0.1", 3), ("127.0.0.1", 5))
    assert ENDPOINTS.metrics == "http://127.0.0.1:2/metrics"
    assert ENDPOINTS.models_metrics == "http://127.0.0.1:5/metrics"
    assert choose_endpoints(options()).guarded
    unguarded = choose_endpoints(options(guard=False))
    assert unguarded.guarded is None
    assert unguarded.triton == unguarded.grpc


@pytest.mark.parametrize(
    "argument", ["--grpc-use-ssl=1", "--grpc-keepalive-time=1", "--model-control-mode=explicit", "--load-model=*"]
)
def test_arguments_that_need_a_triton_without_guard(argument: str) -> None:
    with pytest.raises(OptionError, match=rf"{argument.partition('=')[0]} is for callers of Triton .* --no-guard"):
        triton_command(options(triton_arguments=(argument,)), ENDPOINTS, RUNTIME)
    bare = Endpoints("127.0.0.1", 1, None, 2, True)
    assert argument in triton_command(options(guard=False, triton_arguments=(argument,)), bare, RUNTIME)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tls_key": "k.pem"}, "give --tls-certificate and --tls-key"),
        ({"tls_client_ca": "a.pem"}, "give --tls-certificate and --tls-key"),
        ({"tls_certificate": "c.pem", "tls_key": "k.pem"}, r"\(.*c\.pem, .*k\.pem\) cannot be used: No such file"),
        ({"tls_certificate": "bad.pem", "tls_key": "bad.pem"}, "cannot be used: "),
        ({"tls_certificate": "c.pem", "tls_key": "k.pem", "guard": False}, "leave out --no-guard"),
    ],
)
def test_files_for_tls_that_cannot_work(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    (tmp_path / "bad.pem").write_text("not a certificate\n")
    files = {name: tmp_path / value if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises(OptionError, match=words):
        check_tls(options(**files))


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
