"""What `serve` writes of the log and of the guard's events, for a person and for a program."""

import json
from typing import Any

import pytest

from rejection_server.console import Console
from rejection_server.host import ServeOptions, Server
from rejection_server.host.options import Endpoints
from rejection_server.host.sizing import Sizing
from rejection_server.json_console import JsonConsole
from support.repository import REPOSITORY

WRONG = {"event": "failed", "code": "INVALID_ARGUMENT", "message": "no text", "method": "ModelInfer", "peer": "::1"}
FAULT = {**WRONG, "code": "INTERNAL", "message": "a model failed", "model": "m", "id": "a\nb", "untold": 3}


def written(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_lines_of_the_log_in_json(capfd: pytest.CaptureFixture[str]) -> None:
    console = JsonConsole("info")
    for line in (
        'E1126 06:05:26.123456 99 server.cc:631] "it \\"failed\\"\\n;"',
        "... repeated 12 times: W1126 06:05:26.123456 99 model.cc:7] plain",
        "guard: the connection broke",
        "[Error] File: /build/otlp_http_client.cc:200 [OTLP HTTP Client] no collector",
        "Traceback (most recent call last):",
        "",
    ):
        console.log(line)
    assert [{name: value for name, value in event.items() if name != "time"} for event in written(capfd)] == [
        {"level": "error", "logger": "triton", "message": 'it "failed"\n;', "source": "server.cc:631"},
        {"level": "warning", "logger": "triton", "message": "plain", "source": "model.cc:7", "repeated": 12},
        {"level": "warning", "logger": "guard", "message": "the connection broke"},
        {"level": "error", "logger": "opentelemetry", "message": "[OTLP HTTP Client] no collector"},
        {"level": "info", "logger": "triton", "message": "Traceback (most recent call last):"},
    ]


def test_failed_requests_for_a_person_are_a_line_each(capfd: pytest.CaptureFixture[str]) -> None:
    console = Console("warning")
    console.event(WRONG)
    console.event(FAULT)
    console.event({"event": "failed", "code": "UNAVAILABLE", "untold": 1})
    console.event({"event": "lost", "seconds": 3.1})
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in lines] == [
        "INVALID_ARGUMENT to ::1, ModelInfer: no text",
        "INTERNAL to ::1, ModelInfer, model 'm', id 'a\\nb': a model failed (3 more ended so before)",
        "UNAVAILABLE: 1 more request ended so",
        "Triton is lost after 3.1 s without an answer",
    ]


def test_callers_write_no_lines_of_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    Console("warning").event({**WRONG, "message": "no model 'x\nrejection-server: all is well\x1b[2J'"})
    line = capfd.readouterr().err
    assert line.endswith("no model 'x\\nrejection-server: all is well\\x1b[2J'\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize("kind", [Console, JsonConsole])
def test_at_level_error_only_the_servers_own_faults_are_told(
    kind: type[Console], capfd: pytest.CaptureFixture[str]
) -> None:
    console = kind("error")
    console.event(WRONG)
    assert capfd.readouterr().err == ""
    console.event(FAULT)
    console.event({"event": "unresponsive", "seconds": 3})
    assert len(capfd.readouterr().err.splitlines()) == 2


def test_a_quiet_start_holds_the_log_back(capfd: pytest.CaptureFixture[str]) -> None:
    console = Console("warning")
    console.log("held")
    assert capfd.readouterr().err == ""
    console.release_log()
    console.log("shown")
    assert capfd.readouterr().err == "held\nshown\n"


def test_ready_tells_what_is_listened_on(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ServeOptions(repository=REPOSITORY, host="0.0.0.0")
    server = Server(options)
    monkeypatch.setattr(server, "_endpoints", Endpoints("0.0.0.0", 8001, None, 8002, True))
    JsonConsole("warning").ready(server, options, 1.0)
    (event,) = written(capfd)
    assert (event["grpc"], event["metrics"]) == ("0.0.0.0:8001", "http://0.0.0.0:8002/metrics")
    assert "http" not in event


def test_more_classifiers_than_cores_are_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ServeOptions(repository=REPOSITORY, cores=2)
    server = Server(options)
    monkeypatch.setattr(server, "_endpoints", Endpoints("127.0.0.1", 8001, None, 8002, True))
    for shares, told in (
        ({"a": 1, "b": 1, "c": 1}, "one instance each, which is more than 2 cores"),
        ({"a": 1, "b": 1}, "2 cores shared out: a 1, b 1"),
    ):
        monkeypatch.setattr(server, "_sizing", Sizing(REPOSITORY, {"classifier": 1}, shares))
        Console("warning").ready(server, options, 1.0)
        assert f"  layout   {told}\n" in capfd.readouterr().out
