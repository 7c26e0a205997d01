"""The model read by PyTorch, checked, and written as ONNX. Each runs in a process of its own."""

import importlib
import logging
import warnings
from pathlib import Path
from typing import Any

from rejection_server.graph.from_torch import exported
from rejection_server.prepare.describe import Description, check_vocabulary
from rejection_server.prepare.errors import CorruptedError, UnsupportedError
from rejection_server.prepare.source import PICKLES, SAFETENSORS
from rejection_server.prepare.weights import check_finite
from rejection_server.wording import one_line


def check_weights(folder: Path, weights: str, described: Description) -> None:
    """Raise UnsupportedError, VocabularyError or CorruptedError unless the weights are a trained classifier's."""
    model = _load(folder, weights)
    check_finite(model, weights)
    check_vocabulary(described.largest_id, model.get_input_embeddings().num_embeddings)


def export(folder: Path, weights: str, described: Description, path: Path) -> None:
    """Write the model to `path` as ONNX, the weights in a file beside it.

    Its inputs are `input_ids` and `attention_mask` [rows, tokens], its output is `logits` [rows, labels]. Raises
    UnsupportedError.
    """
    model = _load(folder, weights)
    warnings.simplefilter("ignore")  # this process ends soon; what they say is not for who prepares a model
    logging.getLogger("torch").setLevel(logging.ERROR)
    try:
        # Weights beside the graph: as one message they would be held three times over.
        exported(model, described.model_max_length, described.segment).save(str(path), external_data=True)
    except Exception as exc:  # torch.export raises dozens of kinds
        cause: BaseException = exc  # around it PyTorch says for a page what its users may do
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = one_line(cause, 200)
        raise UnsupportedError(f"PyTorch cannot export {type(model).__name__} to ONNX: {reason}") from exc


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
    return model.eval()
