"""All ways in which a request is made wrong: those of `requests`, and bytes that no library would write."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from faults import requests
from faults.requests import any_model

__all__ = ["MUTATIONS"]

Mutation = Callable[[random.Random], Any]
"""Makes a request, as a message or as bytes."""


def flipped_bits(rng: random.Random) -> bytes:
    """A valid message with some bits changed."""
    message = bytearray(any_model(rng).SerializeToString(deterministic=True))
    for _ in range(rng.choice((1, 1, 2, 8))):
        message[rng.randrange(len(message))] ^= 1 << rng.randrange(8)
    return bytes(message)


def moved_bytes(rng: random.Random) -> bytes:
    """A valid message with a part taken out, put in twice or replaced."""
    message = any_model(rng).SerializeToString(deterministic=True)
    start = rng.randrange(len(message))
    end = min(len(message), start + rng.choice((1, 2, 5, 20)))
    return bytes(
        message[:start] + rng.choice((b"", message[start:end] * 2, rng.randbytes(end - start))) + message[end:]
    )


def merged(rng: random.Random) -> bytes:
    """Two messages as one: protobuf joins them."""
    return bytes(
        any_model(rng).SerializeToString(deterministic=True) + any_model(rng).SerializeToString(deterministic=True)
    )


def unknown_fields(rng: random.Random) -> bytes:
    """Fields that the protocol does not have, of every wire type, groups and wrong types of known ones included."""
    odd = rng.choice(
        (
            b"\xfa\x01\x03abc",
            b"\xa0\x06\x01",
            b"\xa1\x06" + bytes(8),
            b"\xa3\x06\xa4\x06",
            b"\x0b\x0c",
            b"\xa3\x06" * 200,
            b"\x08\x01",
            b"\x38\x01",
            b"\x2d\0\0\0\0",
            b"\xff\xff\xff\xff\x0f\x01",
            b"\x3a\xff\xff\xff\xff\x0f",
            b"\x2a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
            b"\0\0",
        )
    )
    return bytes(any_model(rng).SerializeToString(deterministic=True) + odd)


def garbage(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 2, 5, 20, 200, 3000)))


MUTATIONS: tuple[tuple[Mutation, int], ...] = (
    (requests.model_name, 3),
    (requests.model_version, 2),
    (requests.shape, 6),
    (requests.datatype, 4),
    (requests.consistent_but_wrong, 4),
    (requests.prefix, 6),
    (requests.truncated_text, 5),
    (requests.trailing_bytes, 4),
    (requests.raw_and_typed, 4),
    (requests.raw_count, 4),
    (requests.typed_count, 3),
    (requests.inputs, 4),
    (requests.outputs, 3),
    (requests.parameters, 5),
    (requests.sequence_id, 3),
    (requests.input_parameters, 5),
    (requests.output_parameters, 4),
    (requests.classification, 3),
    (requests.rows, 3),
    (requests.not_utf8, 4),
    (requests.max_length, 3),
    (requests.request_id, 2),
    (requests.classifier, 4),
    (flipped_bits, 6),
    (moved_bytes, 5),
    (merged, 2),
    (unknown_fields, 3),
    (garbage, 3),
)
"""Each with its weight."""
