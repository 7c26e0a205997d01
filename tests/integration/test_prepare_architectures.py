"""From safetensors to served answers, for each architecture, on small random weights."""

import json

import numpy as np
import onnxruntime
import pytest
from support import tiny_transformers
from support.repository import tokenizing
from support.tiny_transformers import torch, transformers

from rejection_server.prepare import gate
from rejection_server.prepare.pipeline import SAMPLE, Options, prepare, read_texts

TEXTS = read_texts(SAMPLE)[:40]


def original_logits(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    encoded = [tokenizer(text, truncation=True, max_length=128, return_tensors="pt")["input_ids"] for text in TEXTS]
    with torch.inference_mode():
        return np.concatenate([model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for ids in encoded])


def written_logits(repository):
    """What the files that were written answer, all texts in one batch, without a server."""
    tokenizer = tokenizing().TextTokenizer(repository / "tokenizer" / "1" / "tokenizer.json", 128)
    rows = [tokenizer.truncate(ids, 128) for ids in tokenizer.token_ids(TEXTS)]
    session = onnxruntime.InferenceSession(str(repository / "classifier" / "1" / "model.onnx"))
    lengths = np.array([[len(row)] for row in rows], np.int32)
    return session.run(["logits"], {"input_ids": np.concatenate(rows), "sequence_lengths": lengths})[0]


@pytest.mark.parametrize("architecture", sorted(tiny_transformers.ARCHITECTURES))
def test_served_answers_are_those_of_the_original(tmp_path, architecture):
    folder = tiny_transformers.make(tmp_path / "original", architecture, labels=("calm", "loud", "odd"))
    said = []
    prepared = prepare(Options(model=str(folder), output=tmp_path / "served", precision="fp32"), said.append)

    assert prepared.precision == "fp32"
    total = prepared.figures[-1]
    assert total.texts >= 200
    assert total.largest <= gate.THRESHOLDS["fp32"].largest, "over gRPC"
    expected = original_logits(folder)
    assert expected.std(axis=0).min() > 0.05, "the texts' answers differ, or equal ones would prove nothing"
    np.testing.assert_allclose(written_logits(prepared.output), expected, atol=1e-4)
    facts = json.loads((prepared.output / "classifier" / "1" / "model.json").read_text())
    assert facts["gate"]["reference"].startswith("PyTorch")
    assert facts["architecture"] == tiny_transformers.ARCHITECTURES[architecture].model
    assert any(line.endswith("over gRPC on the embedded Triton") for line in said)
