"""Triton adapter of ``tokenizing.py``: tensors in, tensors out, errors mapped to gRPC codes."""

import json
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the cores belong to the classifier
sys.path.insert(0, str(Path(__file__).parent))

from tokenizing import TextError, TextTokenizer, check_lengths, decode, filled

SHORT_BYTES = 1 << 14
"""A request of at most so many bytes is answered at once, in some milliseconds. A longer one is for another thread, so
that no short one waits for it."""
NICE = 5
"""Of that thread, as of the classifier: what is short goes first."""
_STRING_ID = "the parameter sequence_id is a string, but this model keeps no sequences; leave it out"
"""Refused here, since Triton reads such an id from a wrong address where an ensemble, `scoring`, has answered as a step
of another one, and ends (EnsembleContext::ConsumeResponse). An error it passes on without reading the id."""


class TritonPythonModel:
    """Called by Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read ``tokenizer.json`` beside this file."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        longest, shortest = (
            int(config["parameters"][name]["string_value"]) for name in ("model_max_length", "model_min_length")
        )
        self._tokenizer = TextTokenizer(folder / "tokenizer.json", longest, shortest)
        self._long = ThreadPoolExecutor(1, "long", initializer=_yield_to_others)

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer the one request that Triton gives at a time, or have it answered while the next ones are."""
        (request,) = requests
        texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().ravel()
        if sum(map(len, texts)) <= SHORT_BYTES:
            return [self._answer(request, texts)]
        self._long.submit(self._answer_later, request, texts)
        return None

    def finalize(self) -> None:
        """Answer what is left."""
        self._long.shutdown()

    def _answer_later(self, request: Any, texts: Sequence[bytes]) -> None:
        sender = request.get_response_sender()
        try:
            response = self._answer(request, texts)
        except Exception as error:  # as Triton does with what `execute` raises
            response = _error(f"unexpected {type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _answer(self, request: Any, texts: Sequence[bytes]) -> Any:
        if isinstance(request.correlation_id(), str):
            return _error(_STRING_ID, pb_utils.TritonError.INVALID_ARG)
        try:
            ids, counts = self._tokenizer.read(decode(texts), self._max_lengths(request, len(texts)))
        except TextError as error:
            return _error(str(error), pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("input_ids", filled(ids)),
                pb_utils.Tensor("token_count", np.array(counts, dtype=np.int32).reshape(-1, 1)),
            ]
        )

    def _max_lengths(self, request: Any, rows: int) -> list[int]:
        asked = pb_utils.get_input_tensor_by_name(request, "max_length")
        if asked is None:
            return [self._tokenizer.model_max_length] * rows
        limits: list[int] = asked.as_numpy().ravel().tolist()
        check_lengths(limits)
        return limits


def _yield_to_others() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICE)


def _error(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
