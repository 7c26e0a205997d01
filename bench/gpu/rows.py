"""Batches of token ids of given shapes, and how much arithmetic they take."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.compose import target_lengths

Ids = NDArray[np.int64]
LONGEST = 512
SHORT = 20
SPECIAL = 5
"""Ids below this are special tokens."""


def batch(workload: str, tokens: int, vocabulary: int, seed: int = 3) -> list[Ids]:
    """Rows of random ids, at least `tokens` together: the last row is whole. The workload is one of `WORKLOADS`."""
    lengths = [min(LONGEST, length) for length in target_lengths(400)]
    random.Random(seed).shuffle(lengths)
    generator = np.random.default_rng(seed)
    rows: list[Ids] = []
    while sum(map(len, rows)) < tokens:
        length = {"long": LONGEST, "short": SHORT}.get(workload) or lengths[len(rows) % len(lengths)]
        rows.append(generator.integers(SPECIAL, vocabulary, length))
    return rows


def flat(rows: Sequence[Ids]) -> dict[str, NDArray[Any]]:
    """What a served graph takes."""
    lengths = np.array([[len(row)] for row in rows], np.int32)
    return {"input_ids": np.concatenate(rows), "sequence_lengths": lengths}


def padded(rows: Sequence[Ids], pad_id: int) -> tuple[Ids, Ids]:
    """Ids and attention mask [rows, longest]."""
    ids = np.full((len(rows), max(map(len, rows))), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return ids, mask


def flop(rows: Sequence[Ids], shape: Mapping[str, int]) -> float:
    """Floating-point operations of the encoder for these rows, nothing padded: products alone, two for each weight."""
    hidden, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    linear = 2 * (4 * hidden * hidden + 2 * hidden * inner)
    return float(layers * sum(len(row) * (linear + 4 * hidden * len(row)) for row in rows))
