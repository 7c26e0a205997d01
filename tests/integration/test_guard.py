"""The guard in front of a real Triton: what callers can do, what they cannot, and what stopping it does."""

from __future__ import annotations

import asyncio
import gzip
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from google.protobuf import message_factory
from tritonclient.grpc import service_pb2, service_pb2_grpc

from integration.guard_process import GuardProcess, frozen, under_way
from rejection_client import AsyncRejectionClient, RejectionClient
from support.kserve import Wire, arrays, request

Code = grpc.StatusCode
TEXTS = ["Sorry, but I can't assist with that.", "Boil the water first.", "", "🙂 " * 50]
DENIED = [
    method.name
    for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    if any(word in method.name for word in ("Memory", "RepositoryModel", "Trace", "Log"))
]


@pytest.fixture(scope="module")
def guard(server: Any) -> Iterator[GuardProcess]:
    with GuardProcess(server.triton_address) as guard:
        yield guard


@pytest.fixture(scope="module")
def wire(guard: GuardProcess) -> Wire:
    return Wire(guard.address)


@pytest.fixture(scope="module")
def direct(server: Any) -> Wire:
    return Wire(server.triton_address)


def failure(call: Any) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def settled(guard: GuardProcess, within_s: float = 10) -> dict[str, Any]:
    """Counts once nothing is under way."""
    until = time.monotonic() + within_s
    while (counts := guard.counts())["under_way"] and time.monotonic() < until:
        time.sleep(0.05)
    return counts


# --- what callers can do -------------------------------------------------------------------------------------------


def test_answers_are_tritons_to_the_last_bit(wire: Wire, direct: Wire) -> None:
    message = request(TEXTS, max_length=[512, 3, 512, 9])
    message.id = "größe"
    expected, got = direct.stub.ModelInfer(message), wire.stub.ModelInfer(message)
    assert got.id == expected.id
    for name, array in arrays(expected).items():
        np.testing.assert_array_equal(arrays(got)[name], array)


def test_the_open_methods_answer_as_triton_does(wire: Wire, direct: Wire) -> None:
    for name, message in [
        ("ServerLive", service_pb2.ServerLiveRequest()),
        ("ServerReady", service_pb2.ServerReadyRequest()),
        ("ModelReady", service_pb2.ModelReadyRequest(name="rejection")),
        ("ModelReady", service_pb2.ModelReadyRequest(name="nobody")),
        ("ServerMetadata", service_pb2.ServerMetadataRequest()),
        ("ModelMetadata", service_pb2.ModelMetadataRequest(name="rejection")),
        ("ModelConfig", service_pb2.ModelConfigRequest(name="rejection")),
    ]:
        assert getattr(wire.stub, name)(message) == getattr(direct.stub, name)(message), name
    assert wire.statistics("rejection").name == "rejection"
    missing = service_pb2.ModelMetadataRequest(name="größe")
    assert failure(lambda: wire.stub.ModelMetadata(missing)) == failure(lambda: direct.stub.ModelMetadata(missing))


def test_health_is_checked_and_watched(wire: Wire) -> None:
    check = wire.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=10) == b"\x08\x01"
    watch = wire.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=10)
    assert next(watch) == b"\x08\x01"
    watch.cancel()


def test_our_client_works_in_threads_and_in_asyncio(guard: GuardProcess) -> None:
    with RejectionClient(guard.address) as client:
        expected = [prediction.label for prediction in client.classify_many(TEXTS * 20)]
    assert expected[:2] == ["REJECTION", "NORMAL"]

    async def labels() -> list[str]:
        async with AsyncRejectionClient(guard.address) as client:
            predictions = await asyncio.gather(*(client.classify(text) for text in TEXTS * 20))
        return [prediction.label for prediction in predictions]

    assert asyncio.run(labels()) == expected


def test_tritons_own_client_works_with_streams(guard: GuardProcess, wire: Wire) -> None:
    expected = [wire.infer([f"{text} {n}"])["logits"] for n in range(30) for text in TEXTS]
    answers: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(guard.address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for n in range(30):
            for text in TEXTS:
                tensor = triton_grpc.InferInput("text", [1, 1], "BYTES")
                tensor.set_data_from_numpy(np.array([[f"{text} {n}".encode()]], dtype=object))
                client.async_stream_infer("rejection", [tensor], request_id=str(n))
        got = [answers.get(timeout=30) for _ in expected]
        client.stop_stream()
    assert [error for _, error in got if error is not None] == []
    for (result, _), logits in zip(got, expected, strict=True):
        np.testing.assert_array_equal(result.as_numpy("logits"), logits)


def test_a_streams_errors_are_tritons_and_come_in_order(wire: Wire, direct: Wire) -> None:
    messages = [request(["a"]), request([b"\xff"]), request(["b"]), request(["a"], outputs=["scores"])]

    def run(to: Wire) -> list[Any]:
        answers = to.stub.ModelStreamInfer(iter(messages), timeout=30)
        return [(answer.error_message, arrays(answer.infer_response).keys()) for answer in answers]

    got, expected = run(wire), run(direct)
    assert len(got) == 4
    assert [bool(error) for error, _ in got] == [False, True, False, True]
    # Triton answers what it refuses before what it still computes; the guard keeps the order of the requests.
    assert sorted(map(repr, got)) == sorted(map(repr, expected))


def test_a_stream_ends_with_the_status_where_it_was_asked_for(wire: Wire) -> None:
    messages = iter([request(["a"]), request([b"\xff"]), request(["b"])])
    answers = wire.stub.ModelStreamInfer(messages, timeout=30, metadata=[("triton_grpc_error", "true")])
    assert arrays(next(answers).infer_response)["logits"].shape == (1, 2)
    code, details = failure(lambda: next(answers))
    assert code is Code.INVALID_ARGUMENT
    assert "text in row 0 is not valid UTF-8" in details


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_read(guard: GuardProcess, wire: Wire, compression: Any) -> None:
    text = "word " * 5000
    with grpc.insecure_channel(guard.address, compression=compression) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = arrays(stub.ModelInfer(request([text]), timeout=30))
        streamed = next(stub.ModelStreamInfer(iter([request([text])]), timeout=30))
    np.testing.assert_array_equal(answer["logits"], wire.infer([text])["logits"])
    np.testing.assert_array_equal(arrays(streamed.infer_response)["logits"], answer["logits"])


def test_texts_of_a_mebibyte_go_through(wire: Wire) -> None:
    text = ("word " * (1 << 18))[: 1 << 20]
    counts = wire.infer([text] * 2, max_length=1)["token_count"]
    assert 2048 <= counts.min() <= counts.max() <= len(text.split()) + 2  # not read to its end: a lower bound


# --- what they cannot ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DENIED)
def test_what_changes_the_server_is_denied(wire: Wire, name: str) -> None:
    method = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[name]
    message = message_factory.GetMessageClass(method.input_type)()
    code, details = failure(lambda: getattr(wire.stub, name)(message, timeout=10))
    assert code is Code.PERMISSION_DENIED
    assert details.startswith(f"'{name}' is not called from outside")


def test_unknown_methods_are_unimplemented(wire: Wire) -> None:
    for path in ("/inference.GRPCInferenceService/Nothing", "/", "/a.B/c"):
        assert failure(lambda path=path: wire.channel.unary_unary(path)(b"", timeout=10))[0] is Code.UNIMPLEMENTED
    # The caller of a stream waits for an answer before it says more, or ends.
    waiting = threading.Event()
    reflection = wire.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")

    def questions() -> Iterator[bytes]:
        yield b"\x3a\x00"
        waiting.wait(10)

    assert failure(lambda: next(reflection(questions(), timeout=5)))[0] is Code.UNIMPLEMENTED
    waiting.set()


@pytest.mark.parametrize("model", ["scoring", "tokenizer", "classifier"])
def test_inner_models_are_not_called(wire: Wire, model: str) -> None:
    says = f"model '{model}' is a part of 'rejection' and is not called from outside: call 'rejection'"
    assert wire.error(request(["a"], model=model)) == (Code.PERMISSION_DENIED, says)
    (answer,) = wire.stub.ModelStreamInfer(iter([request(["a"], model=model)]), timeout=10)
    assert answer.error_message == says


def test_unknown_models_are_tritons_business(wire: Wire, direct: Wire) -> None:
    message = request(["a"], model="rejections")
    assert wire.error(message) == direct.error(message)


def test_the_request_that_ends_triton_is_refused(wire: Wire) -> None:
    message = request(["a"])
    message.parameters["sequence_id"].string_param = ""
    code, details = wire.error(message)
    assert code is Code.INVALID_ARGUMENT
    assert details == "the request has the parameter 'sequence_id': options are input tensors, so leave it out"
    (answer,) = wire.stub.ModelStreamInfer(iter([message]), timeout=10)
    assert answer.error_message == details
    assert wire.infer(["a"])["logits"].shape == (1, 2)


def test_a_wrong_length_names_the_row(wire: Wire) -> None:
    message = request(["a", "b"])
    message.raw_input_contents[0] = message.raw_input_contents[0][:-1]
    code, details = wire.error(message)
    assert code is Code.INVALID_ARGUMENT
    assert details == "row 1 of inference input 'text' should have 1 bytes by its length, but 0 are left"


@pytest.mark.parametrize("body", [b"", b"\0\0\0\0", b"\0\0\0\0\5abc", b"\0\0\0\0\1ab"])
def test_a_call_that_is_no_message_is_refused(guard: GuardProcess, body: bytes) -> None:
    # gRPC's own library frames every message, so these bytes are the message of a raw one.
    with grpc.insecure_channel(guard.address) as channel:
        code, _ = failure(lambda: channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(body + b"\xff"))
    assert code is Code.INVALID_ARGUMENT


def test_a_message_over_the_bound_is_refused_while_it_arrives(server: Any) -> None:
    with GuardProcess(server.triton_address, max_message_bytes=1 << 20) as guard:
        wire = Wire(guard.address)
        code, details = wire.error(request(["a" * (1 << 20)] * 20))
        assert code is Code.INVALID_ARGUMENT
        assert details.startswith("the message is too large: at most 1048576 bytes")
        with grpc.insecure_channel(guard.address, compression=grpc.Compression.Gzip) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            code, details = failure(lambda: stub.ModelInfer(request(["a" * (1 << 20)] * 20), timeout=30))
        assert details.startswith("the message is too large: at most 1048576 bytes")
        assert len(gzip.compress(bytes(20 << 20))) < 1 << 20
        assert wire.infer(["a"])["logits"].shape == (1, 2)
        assert settled(guard)["under_way_bytes"] == 0


def test_requests_over_the_bound_are_refused_at_once_and_health_is_not(server: Any) -> None:
    with GuardProcess(server.triton_address, max_requests=4) as guard:
        wire = Wire(guard.address)
        pending = [wire.send(request(["word " * 500] * 2)) for _ in range(12)]
        assert wire.stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=5).ready
        errors = [error for one in pending if (error := one.exception()) is not None]
        assert 0 < len(errors) <= 8
        for error in errors:
            assert error.code() is Code.UNAVAILABLE
            assert error.details().startswith("the queue is full: at most 4 requests may be under way")
        assert wire.infer(["a"])["logits"].shape == (1, 2)
        assert settled(guard)["under_way_bytes"] == 0


def test_a_short_request_waits_for_no_long_one(guard: GuardProcess) -> None:
    wire = Wire(guard.address)
    wire.infer(["warm"])
    long = [wire.send(request(["word " * 600] * 17)) for _ in range(4)]
    try:
        long[0].result()
        for number in range(3):
            wire.infer([f"short {number}"])
        assert not any(one.done() for one in long[1:]), "they go to Triton one by one, and so to one of two instances"
    finally:
        for one in long:
            one.cancel()


def test_a_cancelled_request_that_waits_in_the_guard_never_reaches_triton(triton: Any) -> None:
    direct = Wire(triton.grpc_address)
    before = direct.settled_statistics("rejection").inference_stats.success.count
    with GuardProcess(triton.grpc_address, max_upstream_requests=1) as guard:
        wire = Wire(guard.address)
        with frozen(triton.pid):
            first = wire.send(request(["a"]))
            assert under_way(guard, 1)
            pending = [wire.send(request(["a"])) for _ in range(50)]
            assert under_way(guard, 51)
            for one in pending:
                one.cancel()
            assert under_way(guard, 1)
        first.result()
        counts = settled(guard)
        assert counts["calls"]["ModelInfer"] == {"OK": 1, "CANCELLED": 50}
        assert counts["cancelled"] == 50
    assert direct.settled_statistics("rejection").inference_stats.success.count == before + 1


def test_an_upstream_that_is_not_there_is_unavailable() -> None:
    with GuardProcess("127.0.0.1:9") as guard:
        code, details = Wire(guard.address).error(request(["a"]))
        assert code is Code.UNAVAILABLE
        assert details.startswith("the server cannot be reached")


def test_guards_share_a_port(server: Any) -> None:
    with (
        GuardProcess(server.triton_address, reuse_port=True) as one,
        GuardProcess(server.triton_address, reuse_port=True, port=one.port) as two,
    ):
        for _ in range(40):
            with grpc.insecure_channel(one.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request(["a"]), timeout=10)
        shares = [guard.counts()["calls"]["ModelInfer"]["OK"] for guard in (one, two)]
        assert sum(shares) == 40
        assert min(shares) > 0
