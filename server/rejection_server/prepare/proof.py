"""What the served form answers in float32, before anything is rounded: run here, without a server.

The precision that is served in the end may differ a little from the original. So that a little difference is nothing
but rounding, the same graph has to answer in float32 to the last digits first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rejection_server.graph.tensorrt_rows import LONGEST
from rejection_server.prepare.answers import Answers
from rejection_server.prepare.build import Plan, session, write_graph
from rejection_server.prepare.describe import Description
from rejection_server.prepare.errors import UnsupportedError
from rejection_server.prepare.tokenizer import rows_of_limits, tokens_as_served
from rejection_server.wording import one_line

ROWS = 8
"""Texts that share an execution."""


def answers_in_float32(padded: Path, graph: Path, tokenizer_json: Path, plan: Plan, texts: Sequence[str]) -> Answers:
    """Answers of the padded model's served form, which is written to `graph` as the plan says: in float32.

    Raises UnsupportedError and what `write_graph` does.
    """
    model = plan.model
    write_graph(padded, graph, plan)
    ids, counts = tokens_as_served(tokenizer_json, texts, model.model_max_length)
    logits, scores = [], []
    running = session(graph, "cpu")
    for start in range(0, len(ids), ROWS):
        rows = ids[start : start + ROWS]
        try:
            found = running.run(["logits", "probabilities"], _feed(running, rows))
        except Exception as exc:  # onnxruntime raises nothing narrower
            raise UnsupportedError(
                f"the model's ONNX graph fails on real texts ({one_line(exc, 200)}){without_gpu(plan)}"
            ) from exc
        logits.append(found[0])
        scores.append(found[1])
    both = (np.concatenate(parts).astype(np.float64) for parts in (logits, scores))
    return Answers(model.labels, ids, counts, *both)


def without_gpu(plan: Plan) -> str:
    """What may help where that form fails or answers otherwise: more of a sentence, or nothing."""
    if plan.device == "cpu":
        return ""
    return (
        "; on a GPU texts are filled up to one length, and this model may take them one at a time only: try it without "
        "--device gpu"
    )


def shortest_row(graph: Path, tokenizer_json: Path, model: Description) -> int:
    """The fewest tokens that a caller's `max_length` may leave of a text without making the served graph fail.

    A row that makes an execution fail takes the rows of other callers with it. Raises UnsupportedError if a text with
    all its special tokens does.
    """
    running = session(graph, "cpu")
    rows = rows_of_limits(tokenizer_json, model.model_max_length)
    for index in reversed(range(len(rows))):
        row = rows[index]
        try:
            running.run(["logits"], _feed(running, [row]))
        except Exception as exc:  # onnxruntime raises nothing narrower
            if index + 1 == len(rows):
                raise UnsupportedError(
                    f"the model's graph fails on a text of {len(row)} tokens: {one_line(exc, 200)}"
                ) from exc
            return index + 2  # the rows are those of limits from 1 on
    return 1


def _feed(running: Any, rows: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
    """The graph's inputs for these rows, as Triton makes them of as many requests."""
    lengths = np.asarray([[len(row)] for row in rows], np.int32)
    feed = {"input_ids": np.concatenate([np.asarray(row, np.int64) for row in rows]), "sequence_lengths": lengths}
    if LONGEST in {value.name for value in running.get_inputs()}:
        feed[LONGEST] = np.zeros(lengths.max(), np.float32)
    return feed
