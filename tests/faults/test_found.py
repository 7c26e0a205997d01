"""What once harmed the server or its other callers, each by the smallest call that does it."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from faults.target import Target, started
from support.kserve import Wire, arrays, request

Code = grpc.StatusCode
GOOD = "Sorry, but I can't assist with that."
ROUNDS = 30


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with started() as target:
        yield target
        assert target.failure() is None
        assert target.server.stop() == 0
        assert target.noise() is None


@pytest.fixture(scope="module")
def wire(target: Target) -> Wire:
    return Wire(target.address)


@pytest.fixture(scope="module")
def address(target: Target) -> tuple[str, int]:
    host, _, port = target.address.rpartition(":")
    return host, int(port)


def string_sequence_id() -> Any:
    """Ended Triton: the response of an ensemble within an ensemble carried it on."""
    message = request([GOOD])
    message.parameters["sequence_id"].string_param = ""
    return message


def prefix_one_too_long() -> Any:
    """Failed the batch of everybody who waited beside it."""
    message = request([GOOD])
    message.raw_input_contents[0] = struct.pack("<I", len(GOOD) + 1) + GOOD.encode()
    return message


def prefix_of_two_gigabytes() -> Any:
    message = request([GOOD])
    message.raw_input_contents[0] = struct.pack("<I", 2_000_000_000) + b"abc"
    return message


def row_without_tokens() -> Any:
    """Gave the other rows of its batch the scores of others."""
    message = request([GOOD], model="classifier")
    message.inputs[0].name, message.inputs[0].datatype = "input_ids", "INT64"
    message.inputs[0].shape[:] = [1, 0]
    message.raw_input_contents[0] = b""
    return message


def shared_memory() -> Any:
    message = request([GOOD])
    del message.raw_input_contents[:]
    message.inputs[0].parameters["shared_memory_region"].string_param = "stranger"
    message.inputs[0].parameters["shared_memory_byte_size"].int64_param = 64
    return message


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (string_sequence_id, Code.INVALID_ARGUMENT),
        (prefix_one_too_long, Code.INVALID_ARGUMENT),
        (prefix_of_two_gigabytes, Code.INVALID_ARGUMENT),
        (row_without_tokens, Code.PERMISSION_DENIED),
        (shared_memory, Code.INVALID_ARGUMENT),
    ],
)
def test_a_bad_request_fails_alone(bad: Callable[[], Any], code: grpc.StatusCode, wire: Wire, target: Target) -> None:
    texts = [GOOD, "Boil the water first."]
    expected = arrays(wire.stub.ModelInfer(request(texts), timeout=30))
    stop, refused = threading.Event(), set()

    def harm() -> None:
        while not stop.is_set():
            refused.add(wire.error(bad())[0])

    with_it = threading.Thread(target=harm)
    with_it.start()
    try:
        for number in range(ROUNDS):  # each another request to the response cache
            answer = wire.infer([*texts, f"{bad.__name__} {number}"])
            assert all((answer[name][:2] == expected[name]).all() for name in expected)
    finally:
        stop.set()
        with_it.join()
    assert refused == {code}
    assert target.failure() is None


def test_calls_that_are_given_up_do_not_end_triton(wire: Wire, target: Target) -> None:
    for number in range(2000):
        call = wire.stub.ModelInfer.future(request([f"text {number}"]), timeout=0.005 if number % 2 else 30)
        if number % 4 == 0:
            call.cancel()
        elif number % 4 == 2:
            threading.Timer(number % 10 / 1000, call.cancel).start()
        if number % 50 == 0:
            wire.infer([GOOD])
    assert wire.infer([GOOD])["probabilities"].shape == (1, 2)
    assert target.failure() is None


def test_a_stranger_who_breaks_the_protocol_and_goes_is_not_worth_a_word(
    address: tuple[str, int], target: Target
) -> None:
    """There was a traceback in the log for each, which fills disks."""
    before = target.lines
    for _ in range(100):
        with socket.create_connection(address) as stranger:
            stranger.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">IBI", 4, 0, 0))
            stranger.recv(4096)
            # Nothing is unread now, so the end is an orderly one, and the answer to these bytes meets nobody.
            stranger.sendall(b"\xff" * 50)
    # One who stays hears the end; those before were dealt with before.
    with socket.create_connection(address) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while stranger.recv(4096):
            pass
    assert target.lines - before < 10, target.traceback
