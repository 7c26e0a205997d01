"""What the original model answers, in float32, and its export to ONNX. Runs in a process of its own."""

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from rejection_server.graph.from_torch import exported
from rejection_server.prepare.describe import Description, check_vocabulary
from rejection_server.prepare.errors import CorruptedError, UnsupportedError
from rejection_server.prepare.source import PICKLES, SAFETENSORS
from rejection_server.prepare.weights import check_finite
from rejection_server.wording import one_line

Floats = NDArray[np.float64]


def has_torch() -> bool:
    """Whether PyTorch is installed; it is not imported."""
    return importlib.util.find_spec("torch") is not None


def answers_of_torch(folder: Path, weights: str, described: Description, *, export_to: Path | None) -> Floats:
    """Logits [texts, labels] of the model in `folder` on PyTorch in float32, each row of its description alone.

    With `export_to` the model is also written there as ONNX: `input_ids` and `attention_mask` [rows, tokens] to
    `logits` [rows, labels], the weights in a file beside it.

    Raises UnsupportedError, VocabularyError or CorruptedError.
    """
    import torch

    model = _load(folder, weights)
    check_vocabulary(described.largest_id, model.get_input_embeddings().num_embeddings)
    answers, labels = [], len(described.labels)
    with torch.inference_mode():
        for ids in described.rows:
            tensor = torch.tensor([list(ids)], dtype=torch.int64)
            logits = model(input_ids=tensor, attention_mask=torch.ones_like(tensor)).logits
            if logits.ndim != 2 or logits.shape[1] != labels:
                raise UnsupportedError(f"the model has {labels} labels but gives scores of shape {list(logits.shape)}")
            answers.append(logits[0].to(torch.float64).numpy())
    if export_to is not None:
        _export(model, export_to, described.model_max_length)
    return np.asarray(answers)


def _load(folder: Path, weights: str) -> Any:
    import torch
    import transformers

    safetensors = importlib.import_module("safetensors")  # absent where types are checked

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=weights not in PICKLES,
            dtype=torch.float32,
            attn_implementation="eager",  # plain operators, which onnxruntime fuses
            output_loading_info=True,
        )
    except safetensors.SafetensorError as exc:
        raise CorruptedError(f"{weights} is damaged ({exc}): fetch it again") from exc
    except (ValueError, KeyError, OSError, RuntimeError, ImportError) as exc:
        reason = one_line(exc)
        raise UnsupportedError(f"transformers cannot read the model from {weights or SAFETENSORS}: {reason}") from exc
    missing = sorted(report["missing_keys"])
    if missing:
        raise UnsupportedError(
            f"the weights are not those of a trained text classifier: {', '.join(missing[:3])} "
            f"{'are' if len(missing) > 1 else 'is'} missing from {weights}"
        )
    check_finite(model, weights)
    return model.eval()


def _export(model: Any, path: Path, max_length: int) -> None:
    warnings.simplefilter("ignore")  # this process ends soon; what they say is not for who prepares a model
    logging.getLogger("torch").setLevel(logging.ERROR)
    try:
        # Weights beside the graph: as one message they would be held three times over.
        exported(model, max_length).save(str(path), external_data=True)
    except Exception as exc:  # torch.export raises dozens of kinds
        reason = one_line(exc, 200)
        raise UnsupportedError(f"PyTorch cannot export {type(model).__name__} to ONNX: {reason}") from exc


def answers_of_onnx(path: Path, described: Description) -> Floats:
    """Logits [texts, labels] of a padded ONNX model on onnxruntime, each row of its description alone.

    Raises UnsupportedError or CorruptedError.
    """
    session = _open(path)
    inputs = {value.name for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    output = "logits" if "logits" in outputs else outputs[0]
    answers, labels = [], len(described.labels)
    for ids in described.rows:
        tokens = np.asarray([list(ids)], dtype=np.int64)
        feed = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
        (logits,) = session.run([output], {name: value for name, value in feed.items() if name in inputs})
        if logits.ndim != 2 or logits.shape[1] != labels:
            raise UnsupportedError(
                f"{path.name} is not a text classifier with {labels} labels: its output '{output}' has the shape "
                f"{list(logits.shape)}"
            )
        answers.append(np.asarray(logits[0], dtype=np.float64))
    return np.asarray(answers)


def _open(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime raises nothing narrower
        raise CorruptedError(f"onnxruntime cannot read {path.name}: {one_line(exc)}") from exc
