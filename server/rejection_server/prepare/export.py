"""The model read by PyTorch, checked, and written as ONNX. Each runs in a process of its own."""

import importlib
import logging
import pickle
import warnings
from pathlib import Path
from typing import Any

from rejection_server.graph.from_torch import exported
from rejection_server.prepare.describe import Description, check_vocabulary
from rejection_server.prepare.errors import CorruptedError, UnsupportedError
from rejection_server.prepare.source import CONFIG, PICKLES
from rejection_server.prepare.weights import check_finite
from rejection_server.wording import one_line


def check_weights(folder: Path, weights: str, described: Description) -> None:
    """Raise UnsupportedError, VocabularyError or CorruptedError unless the weights are a trained classifier's."""
    import transformers

    if not hasattr(transformers, described.architecture):
        raise UnsupportedError(
            f"transformers has no {described.architecture}, which config.json names under architectures: it is code of "
            "the model's own, which is not run, and another class would answer otherwise; where you trust it, export "
            "the model to ONNX and prepare a folder with onnx/model.onnx and no weights"
        )
    model = _load(folder, weights)
    check_finite(model, weights)
    rows = embedding_rows(model)
    if rows is not None:
        check_vocabulary(described.largest_id, rows)


def embedding_rows(model: Any) -> int | None:
    """Tokens that a model of transformers has an embedding for; None where it keeps them in a form of its own."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None
    return None if weight is None or weight.ndim != 2 else int(weight.shape[0])


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
        raise UnsupportedError(
            f"PyTorch cannot export {type(model).__name__} to ONNX ({reason}): if another exporter can, put its file "
            "beside the tokenizer as onnx/model.onnx"
        ) from exc


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
            ignore_mismatched_sizes=True,  # told below; of them transformers says no more than that there are any
        )
    except safetensors.SafetensorError as exc:
        raise CorruptedError(f"{weights} is damaged ({one_line(exc)}): fetch it again") from exc
    except pickle.UnpicklingError as exc:
        raise UnsupportedError(
            f"{weights} holds other things than weights, which are not read: save the model again as safetensors"
        ) from exc
    except Exception as exc:  # whatever a setting of a wrong kind, or a pickle of something else, leads to
        raise UnsupportedError(f"transformers cannot read the model from {weights}: {one_line(exc)}") from exc
    for name, held, wanted in report["mismatched_keys"]:
        raise UnsupportedError(
            f"{name} has the shape {list(held)} in {weights}, and {CONFIG} means {list(wanted)}: they do not belong "
            "together"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise UnsupportedError(
            f"the weights are not those of a trained text classifier: {', '.join(missing[:3])} "
            f"{'are' if len(missing) > 1 else 'is'} missing from {weights}"
        )
    return model.eval()
