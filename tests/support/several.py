"""A repository of three classifiers that differ in all that a classifier may differ in; made without torch."""

import shutil
from dataclasses import asdict
from pathlib import Path

import onnx
from tokenizers import Tokenizer, normalizers

from rejection_server.facts import version_folder
from rejection_server.graph.rows import Activation
from rejection_server.names import Names
from rejection_server.prepare import repository
from rejection_server.prepare.build import Plan, Precision, write_graph
from rejection_server.prepare.configuration import Shape, rendered
from support.repository import REPOSITORY
from support.tiny_models import VOCABULARY, description, padded_classifier

TONE = ("calm", "loud", "rude")
TOPIC = ("food", "law", "music", "sport", "weather")
ALL = ("rejection", "tone", "topic")


def make_several(folder: Path) -> Path:
    """The bundled classifier, and two small ones beside it that `make_alone` makes, too."""
    whole = Path(shutil.copytree(REPOSITORY, folder / "guard"))
    for name in ("tone", "topic"):
        repository.publish_beside(make_alone(name, folder / "added" / name), whole, Names(name))
    return whole


def make_alone(name: str, folder: Path) -> Path:
    """A repository of `tone` (32 tokens at most, softmax) or `topic` (128, sigmoid, its tokenizer tells capitals)."""
    is_tone = name == "tone"
    labels, length = (TONE, 32) if is_tone else (TOPIC, 128)
    precision: Precision = "fp32" if is_tone else "fp16"
    activation: Activation = "softmax" if is_tone else "sigmoid"
    folder.mkdir(parents=True)
    tokenizer = Tokenizer.from_file(str(REPOSITORY / "tokenizer" / "1" / "tokenizer.json"))
    if not is_tone:
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    onnx.save(padded_classifier(len(labels), seed=len(labels)), folder / "padded.onnx")
    model = description(
        labels=labels,
        activation=activation,
        model_max_length=length,
        largest_id=VOCABULARY - 1,
        sample_rows=(tuple(range(5, 21)), tuple(range(5, 5 + length))),
    )
    write_graph(folder / "padded.onnx", folder / "served.onnx", Plan(model, precision, packed=False))
    shape = Shape(labels, length, activation)
    parts = repository.Parts(folder / "served.onnx", folder / "tokenizer.json", model.sample_rows)
    whole, names = folder / "whole", Names(name)
    repository.assemble(whole, names, shape, parts, version=1)
    facts = {**asdict(shape), "name": f"tiny-{name}", "precision": precision}
    repository.write_facts(version_folder(whole, names, 1), facts)
    repository.write_files(whole, rendered({**facts, "version": 1}, names))
    return whole
