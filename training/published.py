"""The published model as a PyTorch model again, to go on training from it.

The int8 weights times their scales are the float weights: what rounding took is gone, and what is left is what was
published.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from training.finetune import LABELS
from training.served import body

HEADS = 12
"""Of the attention; the graph holds them only as the shape of its steps."""

_Arrays = dict[str, NDArray[Any]]


def load_published(model: Path, tokenizer: Path) -> tuple[Any, Any]:
    """The classifier in a packed int8 ``model.onnx`` of this project, and its tokenizer.

    Raises KeyError where the file is not the packed int8 form of a BERT classifier.
    """
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in body(onnx.load(model)).initializer}
    layers = sum(name.endswith("_end_gain") for name in arrays)
    vocabulary, hidden = arrays["packed_words_int8"].shape
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=arrays["packed_layer0_up_int8"].shape[1],
        max_position_embeddings=arrays["packed_positions"].shape[0],
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    restored = BertForSequenceClassification(config)
    state = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in _state(arrays, layers).items()}
    missing, unexpected = restored.load_state_dict(state, strict=False)
    if unexpected or any(not name.endswith("position_ids") for name in missing):
        raise KeyError(f"{model} lacks {missing} or holds {unexpected}")
    restored.eval()
    return restored, _tokenizer(tokenizer)


def _state(arrays: _Arrays, layers: int) -> _Arrays:
    """The weights by their names in `transformers`, with what the packed form folded into others taken out again."""
    hidden = arrays["packed_positions"].shape[1]
    root, head_root = np.sqrt(2.0), np.sqrt(hidden / HEADS)

    def matrix(name: str) -> NDArray[Any]:
        whole: NDArray[Any] = (arrays[f"{name}_int8"].astype(np.float32) * arrays[f"{name}_scale"]).T
        return whole

    def norm(there: str, here: str) -> _Arrays:
        return {f"{there}.weight": arrays[f"{here}_gain"], f"{there}.bias": arrays[f"{here}_shift"]}

    words = arrays["packed_words_int8"] * arrays["packed_words_scale"]
    state: _Arrays = {
        "bert.embeddings.word_embeddings.weight": words,
        "bert.embeddings.position_embeddings.weight": arrays["packed_positions"],
        # Token type 0 is part of the positions.
        "bert.embeddings.token_type_embeddings.weight": np.zeros((2, hidden)),
        **norm("bert.embeddings.LayerNorm", "packed_embeddings"),
        "bert.pooler.dense.weight": matrix("model.bert.pooler.dense.weight"),
        "bert.pooler.dense.bias": arrays["model.bert.pooler.dense.bias"],
        "classifier.weight": matrix("model.classifier.weight"),
        "classifier.bias": arrays["model.classifier.bias"],
    }
    for i in range(layers):
        there, here = f"bert.encoder.layer.{i}", f"packed_layer{i}"
        query, key, value = np.split(matrix(f"{here}_attention"), 3)
        nothing = np.zeros(hidden)
        state |= {
            f"{there}.attention.self.query.weight": query * head_root,
            f"{there}.attention.self.query.bias": arrays[f"{here}_query_bias"] * head_root,
            f"{there}.attention.self.key.weight": key,
            f"{there}.attention.self.key.bias": nothing,
            f"{there}.attention.self.value.weight": value,
            f"{there}.attention.self.value.bias": nothing,  # part of the next bias
            f"{there}.attention.output.dense.weight": matrix(f"{here}_out"),
            f"{there}.attention.output.dense.bias": arrays[f"{here}_out_bias"],
            **norm(f"{there}.attention.output.LayerNorm", f"{here}_middle"),
            f"{there}.intermediate.dense.weight": matrix(f"{here}_up") * root,
            f"{there}.intermediate.dense.bias": arrays[f"{here}_up_bias"] * root,
            f"{there}.output.dense.weight": matrix(f"{here}_down") * root,
            f"{there}.output.dense.bias": arrays[f"{here}_down_bias"],
            **norm(f"{there}.output.LayerNorm", f"{here}_end"),
        }
    return state


def _tokenizer(path: Path) -> Any:
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "SEP", "PAD", "CLS", "MASK")}
    return PreTrainedTokenizerFast(tokenizer_file=str(path), model_max_length=512, **special)
