"""gRPC's messages within HTTP/2 data, cut and joined in every way."""

import gzip
import random
import zlib

import pytest

from rejection_server.guard.framing import framed, next_message, only_message
from rejection_server.guard.refusal import Code, Refusal, percent_decoded, percent_encoded

LIMIT = 1000


def compressed(content: bytes) -> bytes:
    return b"\1" + len(content).to_bytes(4, "big") + content


@pytest.mark.parametrize("seed", range(3))
def test_messages_come_out_however_they_were_cut(seed: int) -> None:
    draw = random.Random(seed)
    messages = [draw.randbytes(draw.choice([0, 1, 4, 5, 6, 900])) for _ in range(50)]
    wire = b"".join(framed(one) if draw.random() < 0.5 else compressed(gzip.compress(one)) for one in messages)
    buffer, found = bytearray(), []
    while wire:
        size = draw.choice([1, 2, 5, 100, 3000])
        buffer += wire[:size]
        wire = wire[size:]
        while (got := next_message(buffer, "gzip", LIMIT)) is not None:
            found.append(got[0])
            del buffer[: got[1]]
    assert found == messages
    assert not buffer


@pytest.mark.parametrize(
    ("body", "encoding", "plain"),
    [
        (framed(b"abc"), "", b"abc"),
        (framed(b"abc"), "gzip", b"abc"),
        (framed(b""), "", b""),
        (compressed(gzip.compress(b"abc")), "gzip", b"abc"),
        (compressed(zlib.compress(b"abc")), "deflate", b"abc"),
        (compressed(gzip.compress(bytes(LIMIT))), "gzip", bytes(LIMIT)),
    ],
)
def test_one_message(body: bytes, encoding: str, plain: bytes) -> None:
    assert only_message(bytearray(body), encoding, LIMIT) == plain


@pytest.mark.parametrize(
    ("body", "encoding", "says"),
    [
        (b"", "", "after 0 of the 5 bytes"),
        (framed(b"abc")[:4], "", "after 4 of the 5 bytes"),
        (framed(b"abc")[:-1], "", "after 7 of the 8 bytes"),
        (framed(b"abc") + b"\0", "", "1 bytes follow the message: send one message in a call"),
        (framed(b"abc") * 2, "", "8 bytes follow the message"),
        (b"\2" + framed(b"abc")[1:], "", "begins with byte 2"),
        (framed(bytes(LIMIT + 1)), "", "too large: at most 1000 bytes"),
        (b"\0\xff\xff\xff\xff", "", "too large: at most 1000 bytes"),
        (compressed(gzip.compress(bytes(LIMIT + 1))), "gzip", "too large: at most 1000 bytes"),
        (compressed(gzip.compress(bytes(100_000_000))[:900]), "gzip", "too large: at most 1000 bytes"),
        (compressed(gzip.compress(b"abc")), "", "has no grpc-encoding"),
        (compressed(gzip.compress(b"abc")), "identity", "has no grpc-encoding"),
        (compressed(b"abc"), "gzip", "the message is not gzip"),
        (compressed(gzip.compress(b"abc")[:-1]), "gzip", "not exactly one piece of gzip"),
        (compressed(gzip.compress(b"abc") + b"x"), "gzip", "not exactly one piece of gzip"),
    ],
)
def test_everything_else_is_refused(body: bytes, encoding: str, says: str) -> None:
    with pytest.raises(Refusal) as caught:
        only_message(bytearray(body), encoding, LIMIT)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert says in caught.value.sentence


def test_an_encoding_that_is_not_known_is_unimplemented() -> None:
    with pytest.raises(Refusal) as caught:
        only_message(bytearray(compressed(b"abc")), "snappy", LIMIT)
    assert caught.value.code is Code.UNIMPLEMENTED


@pytest.mark.parametrize("sentence", ["plain", "50% of 'größe'\n", "\x00\x7f🙂%41"])
def test_sentences_travel_in_headers(sentence: str) -> None:
    encoded = percent_encoded(sentence)
    assert all(0x20 <= byte < 0x7F for byte in encoded)
    assert percent_decoded(encoded) == sentence
