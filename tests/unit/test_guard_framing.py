"""gRPC's messages within HTTP/2 data, cut and joined in every way."""

import gzip
import random
import tracemalloc
import zlib

import pytest

from rejection_server.guard.framing import Message, framed, inflated, next_message, only_message
from rejection_server.guard.refusal import Code, Refusal, percent_decoded, percent_encoded

LIMIT = 1000


def compressed(content: bytes) -> bytes:
    return b"\1" + len(content).to_bytes(4, "big") + content


def zipped(content: bytes) -> bytes:
    return compressed(gzip.compress(content, mtime=0))


def inflated_only(body: bytes, encoding: str) -> bytes:
    message = only_message(bytearray(body), LIMIT)
    return inflated(message.content, encoding, LIMIT) if message.is_compressed else bytes(message.content)


@pytest.mark.parametrize("seed", range(3))
def test_messages_come_out_however_they_were_cut(seed: int) -> None:
    draw = random.Random(seed)
    messages = [Message(draw.randbytes(draw.choice([0, 1, 4, 5, 6, 900])), draw.random() < 0.5) for _ in range(50)]
    wire = b"".join((compressed if one.is_compressed else framed)(bytes(one.content)) for one in messages)
    buffer, found = bytearray(), []
    while wire:
        size = draw.choice([1, 2, 5, 100, 3000])
        buffer += wire[:size]
        wire = wire[size:]
        while (got := next_message(buffer, LIMIT)) is not None:
            found.append(got)
    assert found == messages
    assert not buffer


@pytest.mark.parametrize(
    ("body", "encoding", "plain"),
    [
        pytest.param(framed(b"abc"), "", b"abc", id="plain"),
        pytest.param(framed(b"abc"), "gzip", b"abc", id="plain although gzip is announced"),
        pytest.param(framed(b""), "", b"", id="empty"),
        pytest.param(zipped(b"abc"), "gzip", b"abc", id="gzip"),
        pytest.param(compressed(zlib.compress(b"abc")), "deflate", b"abc", id="deflate"),
        pytest.param(zipped(bytes(LIMIT)), "gzip", bytes(LIMIT), id="as large as may be"),
    ],
)
def test_one_message(body: bytes, encoding: str, plain: bytes) -> None:
    assert inflated_only(body, encoding) == plain


BOMB = gzip.compress(bytes(100_000_000), mtime=0)


@pytest.mark.parametrize(
    ("body", "encoding", "says"),
    [
        pytest.param(body, encoding, says, id=says)
        for body, encoding, says in [
            (b"", "", "after 0 of the 5 bytes"),
            (framed(b"abc")[:4], "", "after 4 of the 5 bytes"),
            (framed(b"abc")[:-1], "", "after 7 of the 8 bytes"),
            (framed(b"abc") + b"\0", "", "1 bytes follow the message: send one message in a call"),
            (framed(b"abc") * 2, "", "8 bytes follow the message"),
            (b"\2" + framed(b"abc")[1:], "", "begins with byte 2"),
            (framed(bytes(LIMIT + 1)), "", "too large: at most 1000 bytes"),
            (b"\0\xff\xff\xff\xff", "", "too large: at most 1000 bytes are accepted"),
            (zipped(bytes(LIMIT + 1)), "gzip", "is too large: at most 1000 bytes"),
            (compressed(BOMB[:900]), "gzip", "message is too large: at most 1000 bytes"),
            (zipped(b"abc"), "", "has no grpc-encoding"),
            (zipped(b"abc"), "identity", "but the call has no grpc-encoding"),
            (compressed(b"abc"), "gzip", "the message is not gzip"),
            (zipped(b"abc")[:4] + b"\x16" + gzip.compress(b"abc", mtime=0)[:-1], "gzip", "exactly one piece of gzip"),
            (zipped(b"abc")[:4] + b"\x18" + gzip.compress(b"abc", mtime=0) + b"x", "gzip", "is not exactly one piece"),
        ]
    ],
)
def test_everything_else_is_refused(body: bytes, encoding: str, says: str) -> None:
    with pytest.raises(Refusal) as caught:
        inflated_only(body, encoding)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert says in caught.value.sentence


def test_a_bomb_takes_no_more_memory_than_a_message_may() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Refusal, match="too large"):
            inflated(BOMB, "gzip", 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_an_encoding_that_is_not_known_is_unimplemented() -> None:
    with pytest.raises(Refusal) as caught:
        inflated(b"abc", "snappy", LIMIT)
    assert caught.value.code is Code.UNIMPLEMENTED


@pytest.mark.parametrize("sentence", ["plain", "50% of 'größe'\n", "\x00\x7f🙂%41"])
def test_sentences_travel_in_headers(sentence: str) -> None:
    encoded = percent_encoded(sentence)
    assert all(0x20 <= byte < 0x7F for byte in encoded)
    assert percent_decoded(encoded) == sentence
