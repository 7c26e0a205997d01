"""Triton adapter of ``tokenizing.py``: takes tensors in, gives tensors out, and maps errors to gRPC codes."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the cores belong to the classifier
sys.path.insert(0, str(Path(__file__).parent))

from tokenizing import TextError, TextTokenizer, check_lengths, decode, filled


class TritonPythonModel:
    """Called by Triton's Python backend."""

    def initialize(self, args):
        """Read ``tokenizer.json`` beside this file."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self._tokenizer = TextTokenizer(
            folder / "tokenizer.json", int(config["parameters"]["model_max_length"]["string_value"])
        )

    def execute(self, requests):
        """Tokenise the texts of all requests together; a bad text fails its own request only."""
        responses = [None] * len(requests)
        work = []
        texts = []
        for index, request in enumerate(requests):
            try:
                mine, limits = self._read(request)
            except TextError as error:
                responses[index] = _refusal(str(error))
                continue
            work.append((index, len(texts), limits))
            texts += mine
        rows = self._tokenizer.token_ids(texts) if texts else []
        for index, start, limits in work:
            mine = rows[start : start + len(limits)]
            ids = [self._tokenizer.truncate(row, limit) for row, limit in zip(mine, limits, strict=True)]
            counts = np.array([[len(row)] for row in mine], dtype=np.int32)
            responses[index] = pb_utils.InferenceResponse(
                [pb_utils.Tensor("input_ids", filled(ids)), pb_utils.Tensor("token_count", counts)]
            )
        return responses

    def _read(self, request):
        texts = decode(pb_utils.get_input_tensor_by_name(request, "text").as_numpy().ravel())
        asked = pb_utils.get_input_tensor_by_name(request, "max_length")
        if asked is None:
            return texts, [self._tokenizer.model_max_length] * len(texts)
        limits = asked.as_numpy().ravel().tolist()
        check_lengths(limits)
        return texts, limits


def _refusal(message):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
