"""What a text classifier's graph takes as token ids, and the refusal of a request that holds other ones.

The graph says it in the ONNX file's metadata; a model without these entries takes what onnxruntime takes. Triton's C++
backend cannot refuse one request of a batch: there such a row is answered with NaN, an empty one as the one token 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rejection_server.onnx_backend.batching import Array

INPUT_IDS = "input_ids"
VOCABULARY_SIZE = "input_ids.vocabulary_size"
LONGEST_ROW = "input_ids.longest_row"
FILLER = -1


@dataclass(frozen=True)
class TokenIds:
    """The rows that a graph accepts."""

    vocabulary_size: int
    """Ids are 0 to one less; -1 fills rows up and means nothing, wherever it stands."""
    longest_row: int
    """Most ids of a row, filler not counted."""

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "TokenIds | None":
        """What an ONNX file's metadata says; None if it says nothing of this."""
        if VOCABULARY_SIZE not in metadata or LONGEST_ROW not in metadata:
            return None
        return cls(int(metadata[VOCABULARY_SIZE]), int(metadata[LONGEST_ROW]))

    def faults(self, requests: Sequence[Array]) -> list[str | None]:
        """What is wrong with each request's ids, int64 [rows, n], in one sentence; None where nothing is."""
        if requests and all(0 < ids.shape[1] <= self.longest_row for ids in requests):
            # Once for all of them: for each of 64 single rows it took a sixth of the time spent in Python.
            together = np.concatenate([ids.reshape(-1) for ids in requests])
            if together.min() >= 0 and together.max() < self.vocabulary_size:
                return [None] * len(requests)
        return [self._fault(ids) for ids in requests]

    def _fault(self, ids: Array) -> str | None:
        if 0 < ids.shape[1] <= self.longest_row and ids.min() >= 0 and ids.max() < self.vocabulary_size:
            return None
        largest = self.vocabulary_size - 1
        for row, found in enumerate(ids):
            outside = found[(found < FILLER) | (found > largest)]
            if outside.size:
                return f"{INPUT_IDS} in row {row} hold {outside[0]}; ids are 0 to {largest}, and {FILLER} to fill up"
            count = int(np.count_nonzero(found != FILLER))
            if count == 0:
                return f"{INPUT_IDS} in row {row} hold no token; give each row at least one id from 0 to {largest}"
            if count > self.longest_row:
                return f"{INPUT_IDS} in row {row} hold {count} tokens; at most {self.longest_row} fit, so truncate it"
        return None
