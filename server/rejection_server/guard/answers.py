"""What the guard counts of answers: how long they took, and which label each text got."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from rejection_server.guard import framing

__all__ = ["BOUNDS_S", "Durations", "count_labels"]

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram's buckets; one more holds the rest."""
PROBABILITIES = "probabilities"
MAX_READ_BYTES = 1 << 16
"""Longest answer whose labels are counted: 64 texts and 200 labels fit."""


class Durations:
    """A histogram of seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """One more answer."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds


def count_labels(
    body: bytes | bytearray, model: str, labels: Mapping[str, tuple[str, ...]], counts: Counter[tuple[str, str]]
) -> None:
    """Count the most probable label of each row of an answer, if it has `probabilities`, as numbers or by label.

    Args:
        body: a ModelInferResponse with its gRPC prefix.
        model: which answered.
        labels: names by model and index; what a model that is missing here says is not counted.
        counts: by model and label.
    """
    names = labels.get(model)
    if names is None or len(body) > MAX_READ_BYTES or body[:1] != b"\0":
        return
    try:
        response = service_pb2.ModelInferResponse.FromString(bytes(body[framing.PREFIX_BYTES :]))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
            if output.name == PROBABILITIES:
                found = _largest(raw, len(names)) if output.datatype == "FP32" else _first(raw, output.shape[-1])
                for index in found:
                    counts[model, names[index]] += 1
    except (DecodeError, IndexError, ValueError, struct.error):
        return  # nothing that the contract knows


def _largest(raw: bytes, width: int) -> list[int]:
    """The index of the largest number of each row."""
    values = array("f", raw)
    rows = (values[start : start + width] for start in range(0, len(values), width))
    return [row.index(max(row)) for row in rows]


def _first(raw: bytes, width: int) -> list[int]:
    """Of each row of `score:index:label`, the best first, the index of the first."""
    found = []
    position = 0
    for number in range(len(raw)):
        if position >= len(raw):
            break
        (size,) = struct.unpack_from("<I", raw, position)
        if number % width == 0:
            found.append(int(raw[position + 4 : position + 4 + size].split(b":", 2)[1]))
        position += 4 + size
    return found
