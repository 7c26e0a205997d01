"""A batch of many rows as parts that run side by side, and their results as those of the batch.

A *part* is a list of pieces; a *piece* is consecutive rows of one item. Rows are those of the first dimension of every
tensor, so this is for models whose `max_batch_size` is above 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rejection_server.onnx_backend.batching import Arrays, Item, row_count


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one item."""

    index: int
    """Which of the batch's items it is of."""
    item: Item


def cut(items: Sequence[Item], rows: int) -> list[list[Piece]]:
    """Cut the items into parts of `rows` rows, in order; the last may have fewer. Tensors are views, not copies."""
    parts: list[list[Piece]] = []
    room = 0
    for index, item in enumerate(items):
        start, end = 0, row_count(item)
        while start < end:
            if room == 0:
                parts.append([])
                room = rows
            stop = min(end, start + room)
            parts[-1].append(Piece(index, {name: tensor[start:stop] for name, tensor in item.items()}))
            room -= stop - start
            start = stop
    return parts


def join(pieces: Sequence[Piece], outputs: Sequence[Arrays], count: int) -> list[Arrays]:
    """Put the outputs of the pieces, in the order of `cut`, together again.

    Args:
        pieces: The pieces of all parts.
        outputs: The outputs of each piece, rows first.
        count: How many items there were; each has a piece.

    Returns:
        The outputs of each item.
    """
    found: list[list[Arrays]] = [[] for _ in range(count)]
    for piece, arrays in zip(pieces, outputs, strict=True):
        found[piece.index].append(arrays)
    return [
        item[0] if len(item) == 1 else tuple(np.concatenate(arrays) for arrays in zip(*item, strict=True))
        for item in found
    ]
