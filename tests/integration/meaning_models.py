"""Models of every kind, by what their answers mean, in one repository: scores are the numbers in the text."""

from pathlib import Path

LABELS = {
    "reversed": ["REJECTION", "NORMAL"],
    "five": ["one", "two", "three", "four", "five"],
    "topics": [f"topic {number}" for number in range(12)],
    "stars": ["low", "middle", "high"],
    "older": ["NORMAL", "REJECTION"],
    # Of the models that LLM Guard's scanners have.
    "injection": ["SAFE", "INJECTION"],
    "toxic": [
        *("toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat", "sexual_explicit", "male"),
        *("female", "homosexual_gay_or_lesbian", "christian", "jewish", "muslim", "black", "white"),
        "psychiatric_or_mental_illness",
    ],
    "gibberish": ["clean", "mild gibberish", "noise", "word salad"],
    "language": [
        *("ja", "nl", "ar", "pl", "de", "it", "pt", "tr", "es", "hi"),
        *("el", "ur", "bg", "en", "fr", "zh", "ru", "th", "sw", "vi"),
    ],
    "bias": ["BIASED", "NEUTRAL"],
}
ONE_LABEL = {"function_to_apply": "softmax", "problem_type": "single_label_classification"}
MULTI_LABEL = {"function_to_apply": "sigmoid", "problem_type": "multi_label_classification"}
MEANING: dict[str, dict[str, str]] = {
    "reversed": {
        "function_to_apply": "softmax",
        "problem_type": "single_label_classification",
        "positive_label": "REJECTION",
        "model_id": "someone/refusals",
        "model_revision": "0123456789abcdef",
        "precision": "fp32",
        "model_version": "3",
    },
    "five": ONE_LABEL,
    "topics": MULTI_LABEL,
    "stars": {"function_to_apply": "none", "problem_type": "regression"},
    "older": {},
    "injection": ONE_LABEL,
    "toxic": MULTI_LABEL,
    "gibberish": ONE_LABEL,
    "language": ONE_LABEL,
    "bias": ONE_LABEL,
}
CONFIG = """
backend: "python"
max_batch_size: 8
input [
  { name: "text" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "max_length" data_type: TYPE_INT32 dims: [ 1 ] optional: true }
]
output [
  { name: "probabilities" data_type: TYPE_FP32 dims: [ COUNT ] label_filename: "labels.txt" },
  { name: "token_count" data_type: TYPE_INT32 dims: [ 1 ] }
]
instance_group [ { kind: KIND_CPU count: 1 } ]
parameters [ PARAMETERS ]
"""
MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    # The scores of a text are the numbers in it, the last one again and again; of one without numbers, zeros.

    def initialize(self, args):
        import json

        self.width = json.loads(args["model_config"])["output"][0]["dims"][0]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        rows = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        texts = [row[0].decode() for row in rows]
        if "fail" in texts:
            raise RuntimeError("this model fails,\\nover two lines")
        for row, text in enumerate(texts):
            if text == "bad":
                message = f"text in row {row} is bad"
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
        words = [[word.rstrip(".") for word in text.split() if not word.strip("-.0123456789")] for text in texts]
        found = [[float(word) for word in row] or [0.0] for row in words]
        scores = [(row + row[-1:] * self.width)[: self.width] for row in found]
        counts = [[len(text.split())] for text in texts]
        tensors = [("probabilities", scores, np.float32), ("token_count", counts, np.int32)]
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, np.array(of, kind)) for name, of, kind in tensors])
"""


def make_repository(folder: Path) -> Path:
    """A model repository with these models, each public."""
    for name, labels in LABELS.items():
        (folder / name / "1").mkdir(parents=True)
        told = {"model_max_length": "64", **MEANING[name]}
        parameters = ", ".join(f'{{ key: "{key}" value: {{ string_value: "{told[key]}" }} }}' for key in told)
        config = CONFIG.replace("COUNT", str(len(labels))).replace("PARAMETERS", parameters)
        (folder / name / "config.pbtxt").write_text(config)
        (folder / name / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
        (folder / name / "1" / "model.py").write_text(MODEL)
    return folder
