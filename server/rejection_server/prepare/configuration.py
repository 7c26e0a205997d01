"""The files of a model repository that follow from the model: each `config.pbtxt`, and the names of the labels.

Their text stands in `templates`, what they depend on in `model.json` beside the ONNX file. Also a program,
scripts/render, that brings the files of a repository up to date with both; it needs no other package.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from rejection_server import MODEL_REPOSITORY
from rejection_server.facts import FACTS
from rejection_server.names import Names, classifiers_in
from rejection_server.prepare.contract import INPUTS, OUTPUTS, declared, mapped

if TYPE_CHECKING:
    from rejection_server.graph.rows import Activation

__all__ = ["MEANING", "Device", "Shape", "configurations", "meaning_of", "newest_facts", "rendered"]

Device = Literal["cpu", "gpu"]

TEMPLATES = Path(__file__).parent / "templates"
MODELS = ("public", "scoring", "tokenizer", "classifier")
"""Templates of the models, by what `Names` calls them."""
BY_DEVICE: Mapping[Device, Mapping[str, str]] = {
    "cpu": {"tokenizers_per_core": "0.125", "max_pending_requests": "512"},
    # A GPU classifies as fast as six processes tokenise, and answers such a queue within a fifth of a second.
    "gpu": {"tokenizers_per_core": "0.375", "max_pending_requests": "2048"},
}
MEANING = (
    *("function_to_apply", "problem_type", "positive_label"),
    *("model_id", "model_revision", "model_sha256", "precision", "model_version"),
)
"""Names of what `meaning_of` tells."""
POSITIVE_LABEL = "REJECTION"
"""The label that counts as a refusal where nothing else is said, in whatever case."""
SHORT_TEXT = 16
"""Tokens of the second warm-up."""


@dataclass(frozen=True)
class Shape:
    """What a repository's configurations depend on."""

    labels: tuple[str, ...]
    model_max_length: int
    """Longest text in tokens, special ones included."""
    activation: Activation = "softmax"
    device: Device = "cpu"
    model_min_length: int = 1
    """Fewest tokens that a longer text may be cut to."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Shape:
        """The shape that a `model.json` holds; raises KeyError naming what it lacks."""
        names = ("model_max_length", "activation", "device", "model_min_length")
        return cls(tuple(facts["labels"]), *(facts[name] for name in names))


def meaning_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Parameters of the public model that tell callers what its answers mean, from what a `model.json` holds."""
    labels, activation = facts["labels"], facts["activation"]
    of_one = "regression" if activation == "none" else "single_label_classification"
    found = (
        activation,
        facts.get("problem_type")
        or ("multi_label_classification" if activation == "sigmoid" and len(labels) > 1 else of_one),
        facts.get("positive_label") or next((label for label in labels if label.upper() == POSITIVE_LABEL), None),
        # A folder's path is nobody's business, and changes.
        facts.get("source") if facts.get("revision") else facts.get("name"),
        *(facts.get(name) for name in ("revision", "sha256", "precision", "version")),
    )
    return {name: str(value) for name, value in zip(MEANING, found, strict=True) if value is not None}


def rendered(facts: Mapping[str, Any], names: Names) -> dict[str, str]:
    """Content of each file that follows from a `model.json`, by its path within the repository."""
    return configurations(Shape.of(facts), names, meaning_of(facts))


def configurations(shape: Shape, names: Names, meaning: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Content of each file that follows from the shape and the names, by its path within the repository."""
    named = {model: getattr(names, model) for model in MODELS}
    values = {
        **named,
        "labels": len(shape.labels),
        "model_max_length": shape.model_max_length,
        "model_min_length": shape.model_min_length,
        **BY_DEVICE[shape.device],
        "short_length": min(SHORT_TEXT, shape.model_max_length),
        # A processor runs the rows of a batch one after the other or in small groups.
        "warmup_rows": 64 if shape.device == "gpu" else 1,
        "instances": _template(f"instances.{shape.device}").rstrip("\n"),
        "meaning": "".join(
            f',\n  {{ key: "{name}" value: {{ string_value: {json.dumps(value, ensure_ascii=False)} }} }}'
            for name, value in meaning.items()
        ),
        "batching": _template(f"batching.{shape.device}").rstrip("\n"),
        # The contract's own entries name the number of labels.
        **{name: Template(entries).substitute(labels=len(shape.labels)) for name, entries in _tensors().items()},
    }
    files = {f"{name}/config.pbtxt": Template(_template(model)).substitute(values) for model, name in named.items()}
    # Those whose outputs have label names, for Triton's classification extension.
    labelled = (names.public, names.classifier)
    return files | {f"{name}/labels.txt": "".join(f"{label}\n" for label in shape.labels) for name in labelled}


def _tensors() -> dict[str, str]:
    """The contract's tensors, as the templates name them."""
    made_by = {model: [tensor for tensor in OUTPUTS if tensor.made_by == model] for model in MODELS}
    return {
        "public_inputs": declared(INPUTS, about=True),
        "public_outputs": declared(OUTPUTS, about=True, labels=True),
        "inputs": declared(INPUTS),
        "outputs": declared(OUTPUTS),
        "tokenizer_outputs": declared(made_by["tokenizer"]),
        "classifier_outputs": declared(made_by["classifier"], labels=True),
        "input_maps": mapped("input", INPUTS),
        "output_maps": mapped("output", OUTPUTS),
        "tokenizer_maps": mapped("output", made_by["tokenizer"]),
        "classifier_maps": mapped("output", made_by["classifier"]),
    }


def newest_facts(repository: Path, names: Names) -> dict[str, Any]:
    """What `model.json` of a classifier's newest version says; raises FileNotFoundError if no version has one."""
    found = {int(path.parent.name): path for path in repository.glob(f"{names.classifier}/[0-9]*/{FACTS}")}
    if not found:
        raise FileNotFoundError(
            f"{repository} holds no {names.classifier}/VERSION/{FACTS}: it is no prepared model repository"
        )
    facts: dict[str, Any] = json.loads(found[max(found)].read_text(encoding="utf-8"))
    return {**facts, "version": max(found)}


def _template(name: str) -> str:
    return (TEMPLATES / f"{name}.pbtxt").read_text(encoding="utf-8")


def main() -> int:
    """Write the files that are out of date, or with --check only name them; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/render",
        description="Bring config.pbtxt and labels.txt of a model repository up to date with their templates "
        "(server/rejection_server/prepare/templates) and with what model.json says of the classifier.",
        allow_abbrev=False,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of date")
    parser.add_argument(
        "repository", type=Path, nargs="?", default=MODEL_REPOSITORY, help="folder (default: the bundled repository)"
    )
    options = parser.parse_args()
    try:
        files: dict[str, str] = {}
        for names in classifiers_in(options.repository) or (Names(),):
            files |= rendered(newest_facts(options.repository, names), names)
            if not (options.repository / names.classifier / "warmup").is_dir():
                raise FileNotFoundError(
                    f"it has no {names.classifier}/warmup and was made by an older release: prepare it again"
                )
    except (OSError, ValueError, KeyError) as exc:
        sys.stderr.write(f"scripts/render: {options.repository} cannot be rendered: {exc}\n")
        return 1
    stale = [name for name, content in files.items() if _held(options.repository / name) != content]
    for name in stale:
        if not options.check:
            (options.repository / name).write_text(files[name], encoding="utf-8")
        sys.stdout.write(f"{name} {'is out of date: run scripts/render' if options.check else 'written'}\n")
    return 1 if stale and options.check else 0


def _held(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
