"""Small random classifiers, made without torch, in the form that exporters give: padded ids and mask in, logits out."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from rejection_server.onnx_backend.token_ids import TokenIds
from rejection_server.prepare.describe import Description
from support.repository import REPOSITORY

VOCABULARY = 30522
"""Ids of the bundled tokenizer, so that these models can stand behind it."""
ACCEPTED = TokenIds(VOCABULARY, 512)
"""The longest row is the bundled tokenizer's, too; these models themselves have no limit."""

_TEXT = """
<ir_version: 9, opset_import: ["" : 18]>
classifier (int64[rows, tokens] input_ids, int64[rows, tokens] attention_mask) => (float[rows, {labels}] logits) {{
    embedded = Gather(words, input_ids)
    query = MatMul(embedded, query_weight)
    key = MatMul(embedded, key_weight)
    turned = Transpose<perm=[0,2,1]>(key)
    affinity = MatMul(query, turned)
    real = Cast<to=1>(attention_mask)
    axis1 = Constant<value_ints=[1]>()
    axis2 = Constant<value_ints=[2]>()
    one = Constant<value_float=1.0>()
    far = Constant<value_float=-10000.0>()
    unreal = Sub(one, real)
    penalty = Mul(unreal, far)
    penalty_row = Unsqueeze(penalty, axis1)
    masked = Add(affinity, penalty_row)
    attention = Softmax<axis=-1>(masked)
    mixed = MatMul(attention, embedded)
    inner = MatMul(mixed, inner_weight)
    bent = Tanh(inner)
    real_column = Unsqueeze(real, axis2)
    kept = Mul(bent, real_column)
    total = ReduceSum<keepdims=0>(kept, axis1)
    count = ReduceSum<keepdims=1>(real, axis1)
    mean = Div(total, count)
    logits = Gemm<transB=1>(mean, head_weight, head_bias)
}}
"""


def padded_classifier(labels: int = 2, width: int = 32, seed: int = 0) -> ModelProto:
    """One attention layer over word embeddings; its logits depend on every real token and on no other."""
    random = np.random.default_rng(seed)
    model = parser.parse_model(_TEXT.format(labels=labels))

    def weight(name: str, *shape: int, scale: float) -> None:
        values = (random.standard_normal(shape) * scale).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))

    weight("words", VOCABULARY, width, scale=1.0)
    for name in ("query_weight", "key_weight"):
        weight(name, width, width, scale=width**-0.75)  # affinities near 1, as a trained model's are
    weight("inner_weight", width, width, scale=width**-0.5)
    weight("head_weight", labels, width, scale=width**-0.5)
    weight("head_bias", labels, scale=0.1)
    onnx.checker.check_model(model)
    return model


def with_token_types(model: ModelProto) -> ModelProto:
    """The same classifier with a third input ``token_type_ids``, whose zeros change nothing and whose ones would."""
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["rows", "tokens"]))
    for node in graph.node:
        node.input[:] = ["typed_ids" if name == "input_ids" else name for name in node.input]
    graph.node.insert(0, helper.make_node("Add", ["input_ids", "token_type_ids"], ["typed_ids"]))
    return model


def exported(folder: Path) -> Path:
    """A new folder as an exporter leaves it: this classifier, with the bundled tokenizer; returns the folder."""
    (folder / "onnx").mkdir(parents=True)
    onnx.save(padded_classifier(), folder / "onnx" / "model.onnx")
    shutil.copy(REPOSITORY / "tokenizer" / "1" / "tokenizer.json", folder)
    labels = {"id2label": {"0": "calm", "1": "loud"}, "label2id": {"calm": 0, "loud": 1}}
    shape = {"architectures": ["BertForSequenceClassification"], "max_position_embeddings": 512}
    config = {"model_type": "bert", "vocab_size": VOCABULARY, **shape, **labels}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"tokenizer_class": "BertTokenizer", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def description(**changes: Any) -> Description:
    """What preparing reads off a model of two labels, less what `changes` says."""
    plain = Description(
        architecture="TinyForSequenceClassification",
        labels=("calm", "loud"),
        activation="softmax",
        model_max_length=512,
        longest_possible=512,
        problem_type="single_label_classification",
        positive_label=None,
        pad_id=0,
        largest_id=0,
        segment=0,
        heads=0,
        hidden_size=0,
        edge_texts=(),
        sample_rows=(tuple(range(5, 21)), tuple(range(5, 133)), tuple(range(5, 517))),
    )
    return dataclasses.replace(plain, **changes)
