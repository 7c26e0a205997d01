"""What the finished repository answers: started on the embedded Triton and asked over gRPC."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from rejection_server.host import HostError, ServeOptions, Server
from rejection_server.prepare.errors import PrepareError

BATCH = 8
"""Texts of a request; of different lengths, so that filling up and joining are tried too."""
AT_ONCE = 64
"""Requests in flight: Triton queues them, so that its batcher joins them as it does under load."""
STARTUP_S = 600.0
ANSWER_S = 300.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """Answers of the server, one row a text."""

    probabilities: Floats
    token_counts: tuple[int, ...]


def ask(repository: Path, texts: Sequence[str]) -> Answers:
    """Start Triton with the repository and ask it all texts.

    Raises PrepareError when it does not start or does not answer.
    """
    options = ServeOptions(
        repository=repository, grpc_port=0, metrics_port=None, startup_timeout_s=STARTUP_S, log_level="warning"
    )
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    try:
        with (
            Server(options) as server,
            triton.InferenceServerClient(server.grpc_address) as client,
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):
            answers = list(pool.map(lambda batch: _infer(client, batch), batches))
    except HostError as exc:
        raise PrepareError(f"the prepared repository does not start: {exc}") from exc
    except InferenceServerException as exc:
        raise PrepareError(f"the prepared repository does not answer: {exc.message()}") from exc
    probabilities = [answer.as_numpy("probabilities").astype(np.float64) for answer in answers]
    counts = [count for answer in answers for count in answer.as_numpy("token_count").ravel().tolist()]
    return Answers(np.concatenate(probabilities), tuple(counts))


def _infer(client: Any, texts: Sequence[str]) -> Any:
    tensor = triton.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=object))
    return client.infer("rejection", [tensor], client_timeout=ANSWER_S)
