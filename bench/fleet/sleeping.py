"""A classifier for Triton's Python backend that takes a known time and no processor, in the place of the real one.

With it some servers on one small machine wait for each other no more than on machines of their own, which is what the
simulation is to be held against. The file is copied to where Triton reads it.
"""

import json
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Called by Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the times from the configuration's parameters."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._fixed_s = float(parameters["fixed_s"]["string_value"])
        self._token_s = float(parameters["token_s"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Sleep as long as the batch would take, then answer each request."""
        ids = [pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy() for request in requests]
        time.sleep(self._fixed_s + self._token_s * sum(array.size for array in ids))
        return [self._answer(array.shape[0]) for array in ids]

    def _answer(self, rows: int) -> Any:
        scores = np.tile(np.array([0.5], dtype=np.float32), (rows, 2))
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("probabilities", scores), pb_utils.Tensor("logits", np.zeros_like(scores))]
        )
