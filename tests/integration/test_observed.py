"""What an operator sees of a server: its log in JSON, its traces, its metrics by way of a real Prometheus."""

import http.server
import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry import context, trace
from tritonclient.grpc import service_pb2

from rejection_client import RejectionClient
from support.kserve import Wire, request
from support.prometheus import program, prometheus
from support.repository import REPOSITORY, ROOT

DASHBOARD = ROOT / "docker" / "grafana" / "dashboard.py"
ALERTS = ROOT / "docker" / "prometheus" / "alerts.yml"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
TRACE = 0x0AF7651916CD43DD8448EB211C80319C
PARENT = 0xB7AD6B7169203331


class Sink:
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        spans = self.spans = []  # type: ignore[var-annotated]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                assert self.path == "/v1/traces"
                for resource in body["resourceSpans"]:
                    names = {pair["key"]: pair["value"] for pair in resource["resource"]["attributes"]}
                    assert names["service.name"] == {"stringValue": "rejection"}
                    spans.extend(span for scope in resource["scopeSpans"] for span in scope["spans"])
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Observed:
    """`serve` with its options from a file and the environment; `events` is what it wrote to standard error so far."""

    def __init__(self, folder: Path, trace_url: str) -> None:
        config = folder / "serve.toml"
        config.write_text('grpc-port = 0\nmetrics-port = 0\nhttp-port = 0\nlog-format = "text"\n')
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rejection_server", "serve", "--repository", str(REPOSITORY), "--trace", trace_url],
            env={**os.environ, "REJECTION_CONFIG": str(config), "REJECTION_LOG_FORMAT": "json"}
            | {"REJECTION_TRACE_RATE": "0", "REJECTION_SCRIPTS": "scripts"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, Any]] = []
        self.other: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        self.ready = self.event("ready", within_s=120)
        self.wire = Wire(self.ready["grpc"])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.other.append(line)

    def event(self, kind: str, within_s: float = 30, **fields: object) -> dict[str, Any]:
        """The first event with these fields, waiting for it."""
        deadline = time.monotonic() + within_s
        wanted = {"event": kind, **fields}.items()
        while time.monotonic() < deadline:
            for event in list(self.events):
                if wanted <= {key: value for key, value in event.items() if key != "instances"}.items():
                    return event
            assert self.process.poll() is None, (self.events, self.other)
            time.sleep(0.05)
        raise AssertionError(f"no event {wanted} in {self.events}")


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink.close()


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, sink: Sink) -> Iterator[Observed]:
    observed = Observed(tmp_path_factory.mktemp("observed"), sink.url)
    yield observed
    observed.process.terminate()
    assert observed.process.wait(60) == 0
    assert observed.process.stdout is not None
    assert observed.process.stdout.read() == "", "in JSON nothing is for a person"
    assert any(event.get("event") == "stopping" for event in observed.events)
    assert observed.other == [], "each line is JSON"
    for event in observed.events:
        assert {"time", "level", "logger", "message"} <= event.keys()
        assert event["time"].endswith("Z")
        assert event["level"] in ("info", "warning", "error"), event


def test_that_it_is_ready_is_an_event(observed: Observed) -> None:
    ready = observed.ready
    assert ready["level"] == "info"
    assert ready["models"]["rejection"]["model"] == "rejection-minilm-l6"
    assert ready["models"]["rejection"]["precision"] == "int8"
    assert set(ready["instances"]) == {"classifier", "tokenizer"}
    assert ready["metrics"].endswith("/metrics")
    assert ready["http"].startswith("http://")


def test_a_request_that_is_refused_or_fails_is_an_event_with_its_id(observed: Observed) -> None:
    asked = request([b"\xff"])
    asked.id = 'order "7"'
    code, _ = observed.wire.error(asked)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    event = observed.event("failed", id='order "7"')
    assert (event["code"], event["model"], event["method"]) == ("INVALID_ARGUMENT", "rejection", "ModelInfer")
    assert (event["level"], event["logger"], event["peer"]) == ("warning", "guard", "127.0.0.1")
    assert "text in row 0 is not valid UTF-8" in event["message"]

    with pytest.raises(grpc.RpcError):
        observed.wire.stub.LogSettings(service_pb2.LogSettingsRequest(), timeout=30)
    denied = observed.event("failed", method="LogSettings")
    assert denied["code"] == "PERMISSION_DENIED"
    assert "id" not in denied


def test_messages_of_a_stream_are_told_too(observed: Observed) -> None:
    asked = request(["text"], model="nowhere")
    asked.id = "9"
    answers = list(observed.wire.stub.ModelStreamInfer(iter([asked, request(["text"])]), timeout=30))
    assert "nowhere" in answers[0].error_message
    event = observed.event("failed", id="9")
    assert (event["code"], event["model"], event["method"]) == ("NOT_FOUND", "nowhere", "ModelStreamInfer")


def test_many_failures_of_a_code_are_one_event_a_second(observed: Observed) -> None:
    def told() -> list[dict[str, Any]]:
        return [event for event in list(observed.events) if event.get("code") == "PERMISSION_DENIED"]

    time.sleep(2.5)  # what went before is told
    before = len(told())
    begin = time.monotonic()
    for _ in range(300):
        code, _ = observed.wire.error(request(["text"], model="scoring"))
        assert code is grpc.StatusCode.PERMISSION_DENIED
    seconds = time.monotonic() - begin
    deadline = time.monotonic() + 30
    while (
        count := sum(event.get("untold", 0) + ("message" in event and "peer" in event) for event in told()[before:])
    ) < 300:
        assert time.monotonic() < deadline, count
        time.sleep(0.1)
    assert count == 300
    assert len(told()) - before <= seconds + 4


def test_a_sampled_trace_goes_on_through_the_models(observed: Observed, sink: Sink) -> None:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    for sampled, identity in ((flags, TRACE), (trace.TraceFlags(0), TRACE + 1)):
        span = trace.NonRecordingSpan(trace.SpanContext(identity, PARENT, is_remote=False, trace_flags=sampled))
        token = context.attach(trace.set_span_in_context(span))
        try:
            with RejectionClient(observed.ready["grpc"]) as client:
                client.classify(f"Traced text {identity}")
        finally:
            context.detach(token)
    names: dict[str, Any] = {}
    deadline = time.monotonic() + 60
    while {"rejection", "tokenizer", "classifier"} - names.keys():
        assert time.monotonic() < deadline, sink.spans
        time.sleep(0.2)
        names = {span["name"]: span for span in sink.spans}
    assert {span["traceId"] for span in sink.spans} == {f"{TRACE:032x}"}, "the one that is not sampled makes no spans"
    ids = {span["spanId"]: span for span in sink.spans}
    path = []
    span = names["classifier"]
    while span["parentSpanId"] in ids:
        path.append(span["name"])
        span = ids[span["parentSpanId"]]
    assert [*path, span["name"]] == ["classifier", "scoring", "rejection", "InferRequest"]
    assert span["parentSpanId"] == f"{PARENT:016x}", "the caller's span is the parent"


def test_http_and_json_by_the_line_of_the_page(observed: Observed) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    (command,) = re.findall(r"```\n(curl .*?)```", OPERATIONS, re.DOTALL)
    (said,) = re.findall(r'```\n(\{"model_name".*?)```', OPERATIONS, re.DOTALL)
    done = subprocess.run(
        ["bash", "-c", command.replace("http://127.0.0.1:8000", observed.ready["http"])],
        capture_output=True,
        text=True,
        check=True,
    )
    got, expected = json.loads(done.stdout), json.loads(said)
    ((mine,), (theirs,)) = (answer["outputs"][0].pop("data") for answer in (got, expected))
    assert got == expected
    assert mine.split(":")[1:] == theirs.split(":")[1:] == ["1", "REJECTION"]
    assert float(mine.split(":")[0]) == pytest.approx(float(theirs.split(":")[0]), abs=0.02)


def panels() -> list[tuple[str, str, str]]:
    """Row, panel and expression of every target of the dashboard."""
    made = json.loads(runpy.run_path(str(DASHBOARD))["build"]())
    found, row = [], ""
    for panel in made["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        else:
            found += [(row, panel["title"], target["expr"]) for target in panel["targets"]]
    assert len(found) > 20
    return found


def test_every_panel_has_data_under_load(observed: Observed, tmp_path: Path) -> None:
    program("prometheus")
    stop = threading.Event()

    def call(number: int) -> None:
        wire = Wire(observed.ready["grpc"])
        for count in itertools.count():
            if stop.is_set():
                return
            # New and repeated texts, refusals among them, and requests that are refused.
            wire.infer([f"I'm sorry, but I can't help with that {number} {count // 2}.", f"Boil {count // 2} eggs."])
            if count % 20 == 0:
                wire.error(request([b"\xff"]))
                wire.error(request(["text"], model="scoring"))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    try:
        with prometheus(tmp_path, observed.ready["metrics"].split("/")[2], ALERTS) as asked:
            deadline = time.monotonic() + 90
            missing = panels()
            while missing and time.monotonic() < deadline:
                time.sleep(1)
                missing = [
                    (row, title, expression)
                    for row, title, expression in missing
                    if row != "GPU" and not has_data(asked, expression)
                ]
            assert missing == []
            # What is shown is what happened: answers counted once, shares that add up.
            shares = asked.value(filled(next(expression for _, title, expression in panels() if title == "Labels")))
            assert sum(shares.values()) == pytest.approx(1, abs=0.01)
            (hits,) = asked.value(filled(next(e for _, title, e in panels() if title == "Cache hits"))).values()
            assert 0.2 < hits < 0.8, "every other request repeats one"
            alerts = {rule["name"]: rule for group in asked.ask("rules")["groups"] for rule in group["rules"]}
            assert {rule["health"] for rule in alerts.values()} == {"ok"}
            firing = [name for name, rule in alerts.items() if rule.get("state") == "firing"]
            assert firing == [], "a server that is well wakes nobody"
    finally:
        stop.set()
        for caller in callers:
            caller.join()


def filled(expression: str) -> str:
    """An expression with what Grafana puts in for its variables."""
    values = {"$__rate_interval": "5s", "$job": "rejection.*", "$instance": ".*", "$model": ".*"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def has_data(asked: Any, expression: str) -> bool:
    """Whether any series has a value above 0."""
    return any(value > 0 for value in asked.value(filled(expression)).values())


def test_the_dashboard_is_what_the_code_makes() -> None:
    made = runpy.run_path(str(DASHBOARD))
    assert made["FILE"].read_text(encoding="utf-8") == made["build"](), "run python docker/grafana/dashboard.py"


def test_alerts_come_when_they_should() -> None:
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(ALERTS.with_name("alerts_test.yml"))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checked = subprocess.run([program("promtool"), "check", "rules", str(ALERTS)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
