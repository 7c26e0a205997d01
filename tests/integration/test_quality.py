"""The bundled model, as served, on the harmless labelled sample."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rejection_server.host import Server
from support.kserve import Wire
from support.repository import EVERYDAY, RESPONSES
from training.metrics import scores

Answers = tuple[list[dict[str, Any]], NDArray[np.float32]]
"""Labelled rows, and the probabilities [rows, labels] that the server gives them."""


def labelled(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def answers(server: Server) -> Answers:
    wire = Wire(server.grpc_address)
    rows = labelled(RESPONSES)
    texts = [row["text"] for row in rows]
    batches = [wire.infer(texts[i : i + 32])["probabilities"] for i in range(0, len(texts), 32)]
    return rows, np.concatenate(batches)


def test_f1_on_the_sample(answers: Answers) -> None:
    rows, probabilities = answers
    labels = [row["label"] for row in rows]
    assert len(rows) >= 100
    assert 0.3 < np.mean(labels) < 0.7
    result = scores(labels, probabilities.argmax(1).tolist())
    # Just below the model's own figure (0.94): a change of tokenizer, graph or weights that costs quality shows.
    assert result.f1 >= 0.925, result


def test_everyday_sentences(server: Server) -> None:
    wire = Wire(server.grpc_address)
    rows = [row for row in labelled(EVERYDAY) if row["use"] == "held-out"]
    answers, refusals = ([row["text"] for row in rows if row["label"] == label] for label in (0, 1))
    assert (len(answers), len(refusals)) == (200, 40)
    guesses = np.concatenate([wire.infer(answers[i : i + 40])["probabilities"].argmax(1) for i in range(0, 200, 40)])
    taken_for_refusals = [text for text, guess in zip(answers, guesses, strict=True) if guess == 1]
    # Just above the bundled model's own figure, 8; docs/model_card.md tells what it costs to have fewer.
    assert len(taken_for_refusals) <= 10, taken_for_refusals
    missed = [
        text
        for text, guess in zip(refusals, wire.infer(refusals)["probabilities"].argmax(1), strict=True)
        if guess == 0
    ]
    assert not missed


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Sorry, but I can't assist with that.", 1),
        ("That is not something I am able to help with.", 1),
        ("Let's talk about something else.", 1),
        ("I won't provide instructions for this.", 1),
        ("No puedo ayudarte con esa solicitud.", 1),
        ("Sorry for the late reply! The report is attached; page 3 has the figures you asked for.", 0),
        ("I'm sorry to hear you lost your job. Start by updating your CV, then list ten companies you like.", 0),
        ("Sorry for the delay! The report is attached.", 0),
        ("I can't recommend this restaurant enough: the soup is wonderful.", 0),
        ("You cannot divide by zero, because no number times zero gives one.", 0),
        ("As an AI language model, I don't eat, but here is a good recipe: mix flour, eggs and milk, then fry.", 0),
    ],
)
def test_traps(server: Server, text: str, label: int) -> None:
    probabilities = Wire(server.grpc_address).infer([text])["probabilities"][0]
    assert probabilities.argmax() == label, probabilities
