"""The original's answers to the gate's texts, stored beside the graph: for a machine that compares once more.

A GPU's kernels are not those that the gate ran with here, and another machine's processor may not be either. Who starts
a repository for a GPU, or has a version take over in a server that runs, asks the graph the same texts again, without
PyTorch, tokenizer or transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rejection_server.facts import FACTS
from rejection_server.prepare import gate
from rejection_server.prepare.errors import disk_errors

GATE = "gate.npz"
BATCH = 32

Run = Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]
"""From the graph's inputs by name to its output `probabilities` [rows, labels]."""


@dataclass(frozen=True)
class Recorded:
    """Token ids, and what the original made of them."""

    rows: Sequence[Sequence[int]]
    """Token ids of the texts, special ones included."""
    logits: gate.Floats
    """[texts, labels], in float32 on the machine that prepared the model."""
    edge_cases: int = 0
    """How many of the texts, the last ones, are edge cases."""

    def write(self, folder: Path) -> None:
        """Write `gate.npz` to the version's folder."""
        with disk_errors(folder), (folder / GATE).open("wb") as file:
            np.savez_compressed(
                file,
                input_ids=np.concatenate([np.asarray(row, np.int64) for row in self.rows]),
                sequence_lengths=np.asarray([len(row) for row in self.rows], np.int32),
                logits=self.logits.astype(np.float32),
                edge_cases=self.edge_cases,
            )

    @classmethod
    def read(cls, folder: Path) -> Recorded:
        """What `write` wrote; raises FileNotFoundError, or ValueError or KeyError for another file."""
        with np.load(folder / GATE, allow_pickle=False) as arrays:
            ends = np.cumsum(arrays["sequence_lengths"])
            rows = np.split(arrays["input_ids"], ends[:-1])
            edge_cases = int(arrays["edge_cases"]) if "edge_cases" in arrays else 0
            return cls([row.tolist() for row in rows], arrays["logits"].astype(np.float64), edge_cases)


def compare_again(folder: Path, run: Run) -> tuple[list[gate.Figures], list[str]]:
    """Ask the graph of a version's folder the gate's texts, many at a time: figures, and what is beyond the thresholds.

    The thresholds are those of `model.json`. Raises what `run` does, ValueError when an answer is not a number, and
    what `Recorded.read` does.
    """
    recorded = Recorded.read(folder)
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    lengths = [len(row) for row in recorded.rows]
    answers = []
    for start in range(0, len(recorded.rows), BATCH):
        rows = recorded.rows[start : start + BATCH]
        answers.append(
            run(
                {
                    "input_ids": np.concatenate([np.asarray(row, np.int64) for row in rows]),
                    "sequence_lengths": np.asarray([[len(row)] for row in rows], np.int32),
                }
            )
        )
    expected = gate.probabilities_of(recorded.logits, facts["activation"])
    served = np.concatenate(answers).astype(np.float64)
    figures = gate.compare_all(expected, served, lengths, recorded.edge_cases, facts["activation"])
    return figures, gate.failures(figures, gate.Thresholds(**facts["gate"]["thresholds"]))
