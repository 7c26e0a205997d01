"""What the finished repository answers: started on the embedded Triton and asked over gRPC."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from rejection_server.host import HostError, ServeOptions, Server
from rejection_server.names import Names
from rejection_server.onnx_backend.token_ids import FILLER
from rejection_server.prepare.answers import Answers
from rejection_server.prepare.errors import PrepareError
from rejection_server.wording import one_line

BATCH = 8
"""Texts of a request; of different lengths, so that filling up and joining are tried too."""
AT_ONCE = 64
"""Requests in flight: Triton queues them, so that its batcher joins them as it does under load."""
STARTUP_S = 600.0
ANSWER_S = 300.0


def ask(repository: Path, names: Names, texts: Sequence[str]) -> Answers:
    """Start Triton with the repository of one classifier and ask it all texts.

    Raises PrepareError when it does not start or does not answer.
    """
    options = ServeOptions(
        repository=repository, grpc_port=0, metrics_port=None, startup_timeout_s=STARTUP_S, log_level="warning"
    )
    told: list[str] = []  # what Triton failed on: the guard keeps it from callers
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    try:
        with (
            Server(options, on_event=lambda event: told.append(event.get("message", ""))) as server,
            triton.InferenceServerClient(server.grpc_address) as client,
            triton.InferenceServerClient(server.triton_address) as inside,
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):
            answers = list(pool.map(lambda batch: _infer(client, names.public, batch), batches))
            tokens = list(pool.map(lambda batch: _infer(inside, names.tokenizer, batch), batches))
            labels = _labels(client, names.public, answers[0].as_numpy("probabilities").shape[1])
            server.kill()  # all is answered, and unloading the models first would take seconds
    except HostError as exc:
        raise PrepareError(f"the prepared repository does not start: {exc}") from exc
    except InferenceServerException as exc:
        reason = next(filter(None, told), exc.message())
        raise PrepareError(f"the prepared repository does not answer: {one_line(reason)}") from exc
    counts = [count for answer in answers for count in answer.as_numpy("token_count").ravel().tolist()]
    rows = [row for answer in tokens for row in answer.as_numpy("input_ids").tolist()]
    logits, scores = (
        np.concatenate([answer.as_numpy(name).astype(np.float64) for answer in answers])
        for name in ("logits", "probabilities")
    )
    ids = tuple(tuple(token for token in row if token != FILLER) for row in rows)
    return Answers(labels, ids, tuple(counts), logits, scores)


def _labels(client: Any, model: str, count: int) -> tuple[str, ...]:
    """Names of the columns, by Triton's classification extension."""
    output = triton.InferRequestedOutput("probabilities", class_count=count)
    named = _infer(client, model, ["Which labels are there?"], [output]).as_numpy("probabilities").ravel()
    entries = [entry.decode().split(":", 2) for entry in named.tolist()]  # score, index, name
    return tuple(name for _, _, name in sorted(entries, key=lambda entry: int(entry[1])))


def _infer(client: Any, model: str, texts: Sequence[str], outputs: list[Any] | None = None) -> Any:
    tensor = triton.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=object))
    return client.infer(model, [tensor], outputs=outputs, client_timeout=ANSWER_S)
