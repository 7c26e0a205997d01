"""Programs in other languages against the real server: the Python client's answers, and the same errors."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest

from rejection_client import ClientConfig, RejectionClient
from rejection_server.host import Server
from support.kserve import Wire, request
from support.proto_examples import LANGUAGES, Program, build
from support.proto_gateway import Gateway
from support.repository import RESPONSES

TEXTS = [json.loads(line)["text"] for line in RESPONSES.read_text().splitlines()[:50]]
OUTPUTS = ["probabilities", "token_count"]


@pytest.fixture(scope="module", params=LANGUAGES)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return build(request.param, tmp_path_factory.mktemp(request.param), Path(sys.executable))


@pytest.fixture
def gateway(server: Server) -> Iterator[Gateway]:
    with Gateway(server.grpc_address) as gateway:
        yield gateway


def rows(result: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert result.returncode == 0, result.stderr.decode()
    return [json.loads(line) for line in result.stdout.decode().splitlines()]


def as_client(address: str, texts: Sequence[str], model: str = "rejection", **options: Any) -> list[dict[str, Any]]:
    """The Python client's answers, in the form of the programs' output."""
    with RejectionClient(address, ClientConfig(model=model)) as client:
        return [
            {
                "label": one.label,
                **({} if one.positive_label is None else {"score": one.score}),
                "scores": dict(one.scores),
                "token_count": one.token_count,
                "text": text,
            }
            for text, one in zip(texts, client.classify_many(texts, **options), strict=True)
        ]


def assert_same(got: Sequence[dict[str, Any]], want: Sequence[dict[str, Any]]) -> None:
    """Equal to the last bit of the numbers that were sent, however a language writes them."""
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine["text"] == theirs["text"]
        assert (mine["label"], mine["token_count"]) == (theirs["label"], theirs["token_count"])
        assert mine["scores"].keys() == theirs["scores"].keys()
        assert np.float32(mine.get("score", np.nan)) == pytest.approx(
            theirs.get("score", np.nan), rel=1e-6, nan_ok=True
        )
        for label, probability in theirs["scores"].items():
            assert np.float32(mine["scores"][label]) == np.float32(probability)


def test_arguments_get_the_answers_of_the_python_client(program: Program, server: Server) -> None:
    assert any("\n" in text for text in TEXTS)
    result = program.run("--address", server.grpc_address, "--", *TEXTS)
    assert_same(rows(result), as_client(server.grpc_address, TEXTS))


def test_lines_get_the_answers_of_the_python_client(program: Program, server: Server) -> None:
    texts = ["", "  ", "é, 日本語 and 🙂", '"quoted" \\ <b>&', *(f"Line {n}, sorry." for n in range(64)), "the last"]
    result = program.run("--address", server.grpc_address, "--max-length", "5", stdin="\n".join(texts).encode())
    assert_same(rows(result), as_client(server.grpc_address, texts, max_length=5))


@pytest.mark.parametrize(("model", "has_score"), [("reversed", True), ("five", False), ("topics", False)])
def test_the_score_is_that_of_a_named_label(program: Program, kinds: Server, model: str, has_score: bool) -> None:
    texts = ["0.9 0.1", "0.2 0.8", "0.1 0.7 0.2"]
    got = rows(program.run("--address", kinds.grpc_address, "--model", model, *texts))
    assert_same(got, as_client(kinds.grpc_address, texts, model))
    assert all(("score" in row) is has_score for row in got)


def test_requests_are_those_of_the_protocol_over_one_connection(program: Program, gateway: Gateway) -> None:
    texts = [f"text {n}" for n in range(130)]
    assert len(rows(program.run("--address", gateway.address, "--timeout", "20", *texts))) == 130
    assert [call.method for call in gateway.calls] == ["ModelInfer", "ModelConfig", *["ModelInfer"] * 3]
    first, _, *calls = [ModelInferRequest.FromString(call.request) for call in gateway.calls]
    assert first.outputs[0].parameters["classification"].int64_param >= 2
    batches = (texts[:64], texts[64:128], texts[128:])
    assert calls == [request(batch, outputs=OUTPUTS) for batch in batches]
    assert len({call.peer for call in gateway.calls}) == 1
    assert all(15 < (call.seconds_left or 0) < 20.5 for call in gateway.calls)


def test_max_length_is_an_input(program: Program, gateway: Gateway) -> None:
    rows(program.run("--address", gateway.address, "--max-length", "70000", "one", "two"))
    assert ModelInferRequest.FromString(gateway.calls[-1].request) == request(["one", "two"], 70000, outputs=OUTPUTS)


@pytest.mark.parametrize(
    ("arguments", "texts", "message"),
    [
        (["--batch", "64"], [b"fine", b"not \xff fine"], {}),
        (["--batch", "65"], [b"one of many"] * 65, {}),
        ([], [b"fine", b"x" * ((1 << 20) + 1)], {}),
        (["--max-length", "0"], [b"fine"], {"max_length": 0}),
        (["--model", "rejections"], [b"fine"], {"model": "rejections"}),
    ],
    ids=["not UTF-8", "65 rows", "too long", "max_length 0", "unknown model"],
)
def test_bad_input_gets_the_servers_error(
    program: Program, server: Server, arguments: list[str], texts: list[bytes], message: dict[str, Any]
) -> None:
    code, details = Wire(server.grpc_address).error(request(texts, outputs=OUTPUTS, **message))
    result = program.run("--address", server.grpc_address, *arguments, stdin=b"\n".join(texts))
    said, advice = result.stderr.decode().splitlines()
    assert said == f"classify: {code.name}: {details}"
    assert ("--model" if code is grpc.StatusCode.NOT_FOUND else "the request is at fault") in advice
    assert (result.returncode, result.stdout) == (1, b"")


def test_refused_calls_are_sent_again(program: Program, gateway: Gateway) -> None:
    gateway.refuse = [grpc.StatusCode.UNAVAILABLE] * 2
    (row,) = rows(program.run("--address", gateway.address, "Sorry, no."))
    assert row["text"] == "Sorry, no."
    labels, again, and_again, _, infer = [call.request for call in gateway.calls]
    assert labels == again == and_again != infer


def test_refused_calls_are_given_up(program: Program, gateway: Gateway) -> None:
    gateway.refuse = [grpc.StatusCode.UNAVAILABLE] * 20
    result = program.run("--address", gateway.address, "Sorry, no.")
    assert result.returncode == 1
    assert result.stderr.decode().startswith("classify: UNAVAILABLE: refused by the gateway\n")
    assert len(gateway.calls) == 3


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_other_failures_are_not_sent_again(program: Program, gateway: Gateway, code: grpc.StatusCode) -> None:
    gateway.refuse = [code] * 20
    result = program.run("--address", gateway.address, "Sorry, no.")
    said, advice = result.stderr.decode().splitlines()
    assert said == f"classify: {code.name}: refused by the gateway"
    assert "the server's log" in advice
    assert len(gateway.calls) == 1


def test_the_deadline_holds(program: Program, gateway: Gateway) -> None:
    gateway.delay_s = 5
    start = time.monotonic()
    result = program.run("--address", gateway.address, "--timeout", "1.5", "Sorry, no.")
    assert result.stderr.decode().startswith("classify: DEADLINE_EXCEEDED: ")
    assert "--timeout" in result.stderr.decode()
    assert 1.4 < time.monotonic() - start < 4.9
    (call,) = gateway.calls
    assert 0 < (call.seconds_left or 0) < 1.6


def test_no_server(program: Program) -> None:
    # Nothing listens on port 1 of the loopback.
    result = program.run("--address", "127.0.0.1:1", "Sorry, no.")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.decode().startswith("classify: UNAVAILABLE: ")
    assert "--address" in result.stderr.decode()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, and a certificate of someone else."""
    if not shutil.which("openssl"):
        pytest.skip("TLS: no openssl here to make a certificate with")
    folder = tmp_path_factory.mktemp("certificates")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "2"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1"]
    for name in ("server", "other"):
        files = ["-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run([*make, *files], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


def test_tls(program: Program, server: Server, certificates: Path) -> None:
    key, certificate = (certificates / name for name in ("server.key", "server.pem"))
    with Gateway(server.grpc_address, (key.read_bytes(), certificate.read_bytes())) as gateway:
        got = rows(program.run("--address", gateway.address, "--tls", certificate, *TEXTS[:3]))
        assert_same(got, as_client(server.grpc_address, TEXTS[:3]))
        for untrusted in ([], ["--tls", str(certificates / "other.pem")]):
            result = program.run("--address", gateway.address, *untrusted, "--timeout", "10", "Sorry, no.")
            assert (result.returncode, result.stdout) == (1, b"")
            assert b"classify: UNAVAILABLE: " in result.stderr


def test_a_wrong_command_line(program: Program) -> None:
    for arguments in (["--colour", "red"], ["--tls", "/nowhere.pem", "text"]):
        result = program.run(*arguments)
        assert result.returncode in (1, 2)
        assert result.stdout == b""
        assert b"Traceback" not in result.stderr
        assert arguments[0].strip("-").encode() in result.stderr or arguments[1].encode() in result.stderr
