"""A checkpoint of the DistilRoBERTa shape with seeded random weights, made with `transformers`.

Speed depends on shapes alone; what random weights do not give is sense. They are drawn wider than a model to be trained
is initialised, and the last layer is set so that probabilities differ clearly between texts: then an answer that was
swapped, truncated or rounded away shows as a difference from float32.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compose import roberta_tokenizer

SEED = 11
SPREAD = 0.06
"""Standard deviation of the weights; 0.02 is what training starts from."""
LOGIT_SPREAD = 2.0
"""Standard deviation between texts of the difference of the two logits."""
LABELS = ("NORMAL", "REJECTION")


def write_checkpoint(folder: Path, texts: Sequence[str], **sizes: int) -> None:
    """Write config, weights and tokenizer; the last layer is set on `texts`. Run it in a process of its own.

    `sizes` replace those of the shape: `num_hidden_layers`, `hidden_size`, `num_attention_heads`, `intermediate_size`.
    """
    import torch

    transformers = silent_transformers()
    torch.manual_seed(SEED)
    config = transformers.RobertaConfig(
        vocab_size=50265,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        initializer_range=SPREAD,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        **{"num_hidden_layers": 6, **sizes},
    )
    model = transformers.RobertaForSequenceClassification(config).eval()
    tokenizer = transformers.RobertaTokenizerFast(tokenizer_object=roberta_tokenizer(), model_max_length=512)
    rows = [encoding.ids[:512] for encoding in roberta_tokenizer().encode_batch(list(texts))]
    with torch.inference_mode():
        logits = torch.cat([model(input_ids=torch.tensor([row])).logits for row in rows])
        difference = logits[:, 1] - logits[:, 0]
        factor = LOGIT_SPREAD / float(difference.std())
        layer = model.classifier.out_proj
        layer.weight.mul_(factor)
        layer.bias.copy_(torch.tensor([0.5, -0.5]) * float(difference.mean()) * factor)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def silent_transformers() -> Any:
    """`transformers`, in a process whose progress bars and warnings of exporting nobody reads."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)
    return transformers
