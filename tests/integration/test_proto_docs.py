"""What docs/protocol.md and the comments in proto/ say is what the real server does."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from rejection_server.host import Server
from support.kserve import Wire, arrays, request, string_bytes
from support.repository import ROOT

PAGE = (ROOT / "docs" / "protocol.md").read_text()
TEXTS = ["I can't.", "Sure! 🙂"]
INFER = "/inference.GRPCInferenceService/ModelInfer"


def dumps() -> list[bytes]:
    """Bytes of the annotated request and answer: hex digits at the start of each line, notes after two spaces."""
    blocks = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [bytes.fromhex("".join(line.split("  ", 1)[0] for line in block.splitlines())) for block in blocks]


def body(frame: bytes) -> bytes:
    """The message within gRPC's framing."""
    compressed, size = struct.unpack(">BI", frame[:5])
    assert (compressed, size) == (0, len(frame) - 5)
    return frame[5:]


def call(wire: Wire, method: str, message: bytes = b"", timeout: float = 10) -> bytes:
    """An RPC with bytes as they are."""
    answer: bytes = wire.channel.unary_unary(method)(message, timeout=timeout)
    return answer


def test_the_dumped_request_is_the_one_described() -> None:
    asked, _ = dumps()
    expected = request(TEXTS, outputs=["probabilities", "token_count"])
    assert body(asked) == expected.SerializeToString()


def test_the_dumped_request_gets_the_dumped_answer(wire: Wire) -> None:
    asked, answered = dumps()
    got = service_pb2.ModelInferResponse.FromString(
        call(wire, "/inference.GRPCInferenceService/ModelInfer", body(asked))
    )
    said = service_pb2.ModelInferResponse.FromString(body(answered))
    assert len(got.SerializeToString()) == len(body(answered))
    assert (got.model_name, got.model_version, got.parameters) == (said.model_name, said.model_version, said.parameters)
    got, said = arrays(got), arrays(said)
    assert got.keys() == said.keys()
    np.testing.assert_array_equal(got["token_count"], said["token_count"])
    # Processors differ in the last digits of int8 products.
    hint = "the bundled model changed: scripts/protocol_dump.py renews docs/protocol.md"
    np.testing.assert_allclose(got["probabilities"], said["probabilities"], atol=0.02, err_msg=hint)


def test_notes_of_the_dump_say_what_the_bytes_are() -> None:
    asked, answered = (service_pb2.ModelInferRequest(), service_pb2.ModelInferResponse())
    for message, frame in zip((asked, answered), dumps(), strict=True):
        message.ParseFromString(body(frame))
    for row, column in np.ndindex(2, 2):
        value = arrays(answered)["probabilities"][row, column]
        (note,) = re.findall(rf"text {row}, label {column}: ([0-9.e-]+)", PAGE)
        assert float(note) == pytest.approx(value, rel=1e-6)
    for row, count in enumerate(arrays(answered)["token_count"].ravel()):
        assert f"text {row}: {count}\n" in PAGE
    assert f"{len(asked.SerializeToString())} bytes follow" in PAGE
    assert f"{len(answered.SerializeToString())} bytes follow" in PAGE


def test_the_string_tensor_of_the_page() -> None:
    assert string_bytes(["é", ""]).hex(" ") in PAGE


@pytest.mark.parametrize("tool", ["buf", "grpcurl"])
def test_command_lines(server: Server, tool: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if not shutil.which(tool, path=path):
        pytest.skip(f"{tool}: not installed here")
    commands = re.findall(rf"^```sh {tool}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    health, infer = [
        json.loads(
            subprocess.run(
                ["bash", "-c", command.replace("127.0.0.1:8001", server.grpc_address)],
                cwd=ROOT / "proto",
                env={**os.environ, "PATH": path},
                check=True,
                capture_output=True,
                timeout=60,
            ).stdout
        )
        for command in commands
    ]
    assert health == {"status": "SERVING"}
    (output,) = infer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "BYTES", ["1", "2"])


def test_health_check_is_for_the_whole_server(wire: Wire) -> None:
    serving = bytes([0x08, 1])
    assert call(wire, "/grpc.health.v1.Health/Check") == serving
    assert call(wire, "/grpc.health.v1.Health/Check", b"\x0a\x07nothing") == serving
    watch = wire.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=10)
    assert next(watch) == serving
    watch.cancel()


def test_parts_of_the_model_and_administration_are_not_for_callers(wire: Wire) -> None:
    for model in ("scoring", "tokenizer", "classifier"):
        code, details = wire.error(request(["a"], model=model))
        assert code == grpc.StatusCode.PERMISSION_DENIED
        assert details == f"model '{model}' is a part of 'rejection' and is not called from outside: call 'rejection'"
    with pytest.raises(grpc.RpcError) as raised:
        wire.stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="rejection"), timeout=10)
    assert raised.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_what_triton_alone_answers_differently(server: Server) -> None:
    alone = Wire(server.triton_address)
    with pytest.raises(grpc.RpcError) as raised:
        list(alone.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=10))
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as raised:
        call(alone, INFER, b"\xff\xff")
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.INTERNAL, "Unable to parse request")
    message = request(["a"])
    message.raw_input_contents.append(b"one too many")
    assert alone.stub.ModelInfer(message, timeout=10).outputs


def test_readiness(wire: Wire) -> None:
    assert wire.stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=10).live
    assert wire.stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=10).ready
    assert wire.stub.ModelReady(service_pb2.ModelReadyRequest(name="rejection"), timeout=10).ready
    assert not wire.stub.ModelReady(service_pb2.ModelReadyRequest(name="nothing"), timeout=10).ready


def test_typed_contents_say_the_same_as_raw_ones(wire: Wire) -> None:
    message = request(TEXTS, [5, 6])
    del message.raw_input_contents[:]
    text, max_length = message.inputs
    text.contents.bytes_contents.extend(one.encode() for one in TEXTS)
    max_length.contents.int_contents.extend([5, 6])
    typed, raw = arrays(wire.stub.ModelInfer(message, timeout=10)), wire.infer(TEXTS, [5, 6])
    for name in ("probabilities", "logits", "token_count"):
        np.testing.assert_array_equal(typed[name], raw[name])
    message.raw_input_contents.append(string_bytes(TEXTS))
    assert wire.error(message)[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_an_input_without_its_entry(wire: Wire) -> None:
    message = request(["a"], 8)
    del message.raw_input_contents[1]
    code, details = wire.error(message)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "unable to find data for input tensor 'max_length'" in details
    assert "unable to find data for input tensor 'max_length'" in PAGE


def test_an_entry_too_many(wire: Wire) -> None:
    message = request(["a"])
    message.raw_input_contents.append(b"one too many")
    assert wire.error(message)[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_bytes_that_are_no_message(wire: Wire) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        call(wire, INFER, b"\xff\xff")
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_goes_on_after_a_refused_request(wire: Wire) -> None:
    asked = [request([text]) for text in (b"fine", b"not \xff fine", b"fine again")]
    asked[1].id = "the second"
    first, second, third = wire.stub.ModelStreamInfer(iter(asked), timeout=30)
    assert not first.error_message
    assert not third.error_message
    assert "text in row 0 is not valid UTF-8" in second.error_message
    assert second.infer_response.id == "the second"
    assert not second.infer_response.outputs
    asked[1].inputs[0].shape[0] = 2
    _, second, _ = wire.stub.ModelStreamInfer(iter(asked), timeout=30)
    assert "expected 2 string elements" in second.error_message
    assert second.infer_response.id == "the second"


def test_the_id_comes_back(wire: Wire) -> None:
    message = request(["a"])
    message.id = "é 7"
    assert wire.stub.ModelInfer(message, timeout=10).id == "é 7"


def test_compressed_requests_are_read(wire: Wire) -> None:
    got = wire.stub.ModelInfer(request(["word " * 200]), timeout=30, compression=grpc.Compression.Gzip)
    assert arrays(got)["token_count"].item() == 202


def test_there_is_no_reflection(wire: Wire) -> None:
    ask = wire.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    with pytest.raises(grpc.RpcError) as raised:
        list(ask(iter([b""]), timeout=10))
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_configuration_tells_the_largest_batch(wire: Wire) -> None:
    config = wire.stub.ModelConfig(service_pb2.ModelConfigRequest(name="rejection"), timeout=10).config
    assert config.max_batch_size == 64
    assert {tensor.name: tensor.optional for tensor in config.input} == {"text": False, "max_length": True}
    assert (config.platform, config.backend) == ("ensemble", "")


def test_retries_of_the_page_are_those_of_the_examples() -> None:
    (block,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    config = json.loads(block)
    policy = config["methodConfig"][0]["retryPolicy"]
    for name in ("python/classify.py", "node/classify.ts", "cpp/classify.cpp", "go/classify.go", "java/Classify.java"):
        example = (ROOT / "proto" / "examples" / name).read_text()
        found = dict(re.findall(r'"?(maxAttempts|initialBackoff|maxBackoff|backoffMultiplier)"?: "?([\d.s]+)', example))
        assert found == {key: str(policy[key]) for key in found}
        assert len(found) == 4
        assert re.search(r'retryableStatusCodes"?: \["UNAVAILABLE"\]', example)
        assert re.search(r'maxTokens"?: 10, "?tokenRatio"?: 0.1', example)
