"""A checkpoint of the DistilRoBERTa shape with seeded random weights; runs where torch and transformers are.

Speed depends on shapes alone; what random weights do not give is sense. They are drawn wider than a model to be trained
is initialised, and the last layer is set so that probabilities differ clearly between texts: then an answer that was
swapped, truncated or rounded away shows as a difference from float32.
"""

import json
import lzma
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SEED = 11
SPREAD = 0.06
"""Standard deviation of the weights; 0.02 is what training starts from."""
LOGIT_SPREAD = 2.0
"""Standard deviation between texts of the difference of the two logits."""
LABELS = ("NORMAL", "REJECTION")

CONFIG: dict[str, Any] = {
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": SPREAD,
    "id2label": dict(enumerate(LABELS)),
    "label2id": {label: index for index, label in enumerate(LABELS)},
}
TOKENIZER_CONFIG = {
    "tokenizer_class": "RobertaTokenizer",
    "add_prefix_space": False,
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "model_max_length": 512,
}


def write_checkpoint(folder: Path, tokenizer_xz: Path, rows: Sequence[Sequence[int]]) -> None:
    """Write the checkpoint: config, weights, tokenizer. `rows`: token ids of texts that the last layer is set on."""
    import torch
    import transformers

    torch.manual_seed(SEED)
    model = transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**CONFIG)).eval()
    _spread_logits(model, rows)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(lzma.decompress(tokenizer_xz.read_bytes()))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n", encoding="utf-8")


def _spread_logits(model: Any, rows: Sequence[Sequence[int]]) -> None:
    """Scale and shift the last layer so that the logits' difference over `rows` has mean 0 and spread LOGIT_SPREAD."""
    import torch

    with torch.inference_mode():
        logits = torch.cat([model(input_ids=torch.tensor([list(row)])).logits for row in rows])
    difference = logits[:, 1] - logits[:, 0]
    factor = LOGIT_SPREAD / float(difference.std())
    layer = model.classifier.out_proj
    with torch.no_grad():
        layer.weight.mul_(factor)
        layer.bias.copy_(torch.tensor([0.5, -0.5]) * float(difference.mean()) * factor)
    sys.stderr.write(f"logits differed by {float(difference.std()):.4f} between texts, scaled by {factor:.2f}\n")
