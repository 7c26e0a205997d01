"""A float32 classifier, served in either ragged form, answers like onnxruntime on the padded original."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from rejection_server.graph.ragged import Form, to_ragged
from rejection_server.host import ServeOptions, Server
from support.kserve import Wire, arrays, request
from support.repository import REPOSITORY, bundled_tokenizer
from support.tiny_models import ACCEPTED, padded_classifier

TEXTS = ["", "Hi", "Sorry, no.", *("some words " * n for n in (3, 40, 90, 250, 400))]


def padded_answers(model: ModelProto, rows: Sequence[Sequence[int]]) -> NDArray[Any]:
    """Logits of the original on one padded batch, with its attention mask."""
    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0])


@pytest.mark.parametrize("form", ["loop", "padded"])
def test_served_logits_equal_the_padded_original(tmp_path: Path, form: Form) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(REPOSITORY, repository)
    original = padded_classifier(width=64)
    onnx.save(to_ragged(original, accepted=ACCEPTED, form=form), repository / "classifier" / "1" / "model.onnx")
    tokenizer = bundled_tokenizer()
    expected = padded_answers(original, [tokenizer.truncate(ids, 512) for ids in tokenizer.token_ids(TEXTS)])
    with Server(ServeOptions(repository=repository, grpc_port=0, metrics_port=0)) as server:
        wire = Wire(server.grpc_address)
        together = wire.infer(TEXTS)["logits"]
        pending = [wire.send(request([text])) for text in TEXTS]
        single = np.concatenate([arrays(one.result())["logits"] for one in pending])
    np.testing.assert_allclose(together, expected, atol=1e-5)
    np.testing.assert_allclose(single, expected, atol=1e-5)
