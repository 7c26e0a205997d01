"""Small random text classifiers in Hugging Face's format, one for each architecture, with tokenizers of their kind.

Needs torch and transformers: a test module that imports this one is skipped where they are not installed.
"""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from support.repository import RESPONSES

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for such small models threads only get in each other's way

WHY = "exporting a model needs PyTorch: scripts/install export"
torch = pytest.importorskip("torch", reason=WHY)
pytest.importorskip("onnxscript", reason=WHY)
transformers = pytest.importorskip("transformers", reason=WHY)

VOCABULARY = 600
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
POSITIONS = 130


@dataclass(frozen=True)
class Architecture:
    """How to make one."""

    model: str
    """Class of the classifier."""
    tokenizer: str
    """Class of the tokenizer."""
    kind: str
    """wordpiece, bytes, unigram, or bytes of a decoder."""
    settings: dict[str, Any]
    """Of the configuration, beside vocabulary and labels."""


# RoBERTa's kin counts positions from 2 on.
ARCHITECTURES = {
    "bert": Architecture(
        "BertForSequenceClassification", "BertTokenizer", "wordpiece", {**SMALL, "max_position_embeddings": 128}
    ),
    "distilbert": Architecture(
        "DistilBertForSequenceClassification",
        "DistilBertTokenizer",
        "wordpiece",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 128},
    ),
    "roberta": Architecture(
        "RobertaForSequenceClassification",
        "RobertaTokenizer",
        "bytes",
        {**SMALL, "max_position_embeddings": POSITIONS, "type_vocab_size": 1},
    ),
    "distilroberta": Architecture(
        "RobertaForSequenceClassification",
        "RobertaTokenizer",
        "bytes",
        {**SMALL, "num_hidden_layers": 1, "max_position_embeddings": POSITIONS, "type_vocab_size": 1},
    ),
    "xlm-roberta": Architecture(
        "XLMRobertaForSequenceClassification",
        "XLMRobertaTokenizer",
        "unigram",
        {**SMALL, "max_position_embeddings": POSITIONS, "type_vocab_size": 1},
    ),
    "deberta-v2": Architecture(
        "DebertaV2ForSequenceClassification",
        "DebertaV2Tokenizer",
        "unigram",
        {
            **SMALL,
            "max_position_embeddings": 128,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "conv_kernel_size": 3,
            "conv_act": "gelu",
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "deberta-v3": Architecture(
        "DebertaV2ForSequenceClassification",
        "DebertaV2Tokenizer",
        "unigram",
        {
            **SMALL,
            "max_position_embeddings": 128,
            "relative_attention": True,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "electra": Architecture(
        "ElectraForSequenceClassification",
        "ElectraTokenizer",
        "wordpiece",
        {**SMALL, "embedding_size": 16, "max_position_embeddings": 128},
    ),
    "mpnet": Architecture(
        "MPNetForSequenceClassification", "MPNetTokenizer", "wordpiece", {**SMALL, "max_position_embeddings": POSITIONS}
    ),
    "modernbert": Architecture(
        "ModernBertForSequenceClassification",
        "TokenizersBackend",
        "bytes",
        {**SMALL, "max_position_embeddings": 128, "local_attention": 16, "global_attn_every_n_layers": 2},
    ),
    "albert": Architecture(
        "AlbertForSequenceClassification",
        "AlbertTokenizer",
        "unigram",
        {**SMALL, "embedding_size": 16, "max_position_embeddings": 128},
    ),
}

BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "init_std": 0.3,
}

# These give the scores of a text's last token, BART and its kin those of its last end token.
DECODERS = {
    "bart": Architecture("BartForSequenceClassification", "RobertaTokenizer", "bytes", BART),
    "mbart": Architecture("MBartForSequenceClassification", "XLMRobertaTokenizer", "unigram", BART),
    "xlnet": Architecture(
        "XLNetForSequenceClassification",
        "XLMRobertaTokenizer",
        "unigram",
        {"d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 64},
    ),
    "gpt2": Architecture(
        "GPT2ForSequenceClassification",
        "GPT2Tokenizer",
        "bytes of a decoder",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    ),
    "llama": Architecture(
        "LlamaForSequenceClassification",
        "LlamaTokenizer",
        "bytes of a decoder",
        {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 128},
    ),
}


def make(
    folder: Path,
    architecture: str,
    *,
    labels: Sequence[str] = ("calm", "loud"),
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write a classifier and its tokenizer to `folder` as `save_pretrained` does; returns the folder.

    The weights are drawn wide enough for answers to differ from text to text: a graph that computes something else
    must not pass for equal.
    """
    shape = (ARCHITECTURES | DECODERS)[architecture]
    tokenizer = _tokenizer(shape)
    model_class = getattr(transformers, shape.model)
    config = model_class.config_class(
        **{
            **shape.settings,
            "vocab_size": len(tokenizer),
            "initializer_range": 0.3,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            **(
                {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
                if architecture == "modernbert"
                else {}
            ),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
            **(settings or {}),
        }
    )
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(seed)
    model = model_class(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(shape: Architecture) -> Any:
    kind = getattr(transformers, shape.tokenizer)
    if shape.kind == "wordpiece":
        empty = kind()
        specials = [empty.pad_token, empty.unk_token, empty.cls_token, empty.sep_token, empty.mask_token]
        return kind(vocab=_wordpiece(*specials), model_max_length=128)
    if shape.kind == "unigram":
        empty = kind()
        specials = [empty.cls_token, empty.pad_token, empty.sep_token, empty.unk_token]
        pieces = [(token, 0.0) for token in specials] + _unigram() + [(empty.mask_token, 0.0)]
        more = {"unk_id": 3} if shape.tokenizer == "DebertaV2Tokenizer" else {}
        return kind(vocab=pieces, model_max_length=128, **more)
    if shape.kind == "bytes of a decoder":
        empty = kind()
        vocab, merges = _bytes(*dict.fromkeys((empty.bos_token, empty.eos_token, empty.unk_token)))
        tokenizer = kind(vocab=vocab, merges=merges, model_max_length=128)
        tokenizer.pad_token = tokenizer.eos_token  # they bring none of their own
        return tokenizer
    if shape.tokenizer == "TokenizersBackend":
        vocab, merges = _bytes("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
        backend = transformers.DebertaTokenizer(vocab=vocab, merges=merges).backend_tokenizer
        return kind(
            tokenizer_object=backend,
            model_max_length=128,
            cls_token="[CLS]",
            sep_token="[SEP]",
            pad_token="[PAD]",
            unk_token="[UNK]",
            mask_token="[MASK]",
        )
    empty = kind()
    specials = [empty.cls_token, empty.pad_token, empty.sep_token, empty.unk_token, empty.mask_token]
    vocab, merges = _bytes(*specials)
    return kind(vocab=vocab, merges=merges, model_max_length=128)


@functools.cache
def _corpus() -> list[str]:
    lines = RESPONSES.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@functools.cache
def _wordpiece(pad: str, unk: str, *specials: str) -> dict[str, int]:
    tokenizer = Tokenizer(models.WordPiece(unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=[pad, unk, *specials], show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer.get_vocab()


@functools.cache
def _bytes(*specials: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


@functools.cache
def _unigram() -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=VOCABULARY, show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    return [tuple(entry) for entry in json.loads(tokenizer.to_str())["model"]["vocab"]]
