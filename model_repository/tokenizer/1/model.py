"""Triton adapter of ``tokenizing.py`` and ``admission.py``: tensors in, tensors out, errors mapped to gRPC codes."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the cores belong to the classifier
sys.path.insert(0, str(Path(__file__).parent))

from admission import Admission, PendingRequests
from tokenizing import TextError, TextTokenizer, check_lengths, decode, filled

METRICS_URL = "REJECTION_METRICS_URL"
"""Environment variable: where Triton serves its metrics, if not on its usual port; empty: a guard bounds the queue."""
BOUNDED = "classifier"
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
        limit = int(config["parameters"]["max_pending_requests"]["string_value"])
        metrics = os.environ.get(METRICS_URL, "http://127.0.0.1:8002/metrics")
        self._admission = Admission(
            limit if metrics else 0,
            PendingRequests(metrics, BOUNDED),
            sharers=sum(group["count"] for group in config["instance_group"]),
            warn=pb_utils.Logger.log_warn,
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request by itself; Triton gives one at a time."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        if isinstance(request.correlation_id(), str):
            return _error(_STRING_ID, pb_utils.TritonError.INVALID_ARG)
        if not self._admission.admit(1):
            return _error(self._admission.refusal, pb_utils.TritonError.UNAVAILABLE)
        try:
            texts, limits = self._read(request)
        except TextError as error:
            return _error(str(error), pb_utils.TritonError.INVALID_ARG)
        rows = self._tokenizer.token_ids(texts)
        ids = [self._tokenizer.truncate(row, limit) for row, limit in zip(rows, limits, strict=True)]
        counts = np.array([[len(row)] for row in rows], dtype=np.int32)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("input_ids", filled(ids)), pb_utils.Tensor("token_count", counts)]
        )

    def _read(self, request: Any) -> tuple[list[str], list[int]]:
        texts = decode(pb_utils.get_input_tensor_by_name(request, "text").as_numpy().ravel())
        asked = pb_utils.get_input_tensor_by_name(request, "max_length")
        if asked is None:
            return texts, [self._tokenizer.model_max_length] * len(texts)
        limits = asked.as_numpy().ravel().tolist()
        check_lengths(limits)
        return texts, limits


def _error(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
