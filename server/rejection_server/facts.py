"""What a repository tells of its classifiers in the `model.json` beside each graph; of the standard library alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rejection_server.names import Names, classifiers_in

__all__ = ["FACTS", "Told", "facts_of", "newest_version", "numbered", "told_of", "version_folder"]

FACTS = "model.json"


@dataclass(frozen=True)
class Told:
    """A classifier in words."""

    names: Names
    model: str
    """What was prepared."""
    precision: str
    labels: tuple[str, ...]


def numbered(folder: Path) -> list[int]:
    """The versions of a model in a repository, ascending; Triton takes no folders of other names for such."""
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal() and entry.is_dir())


def version_folder(repository: Path, names: Names, version: int) -> Path:
    """Where the classifier's version lies."""
    return repository / names.classifier / str(version)


def newest_version(repository: Path, names: Names) -> Path:
    """Folder of the classifier's newest version; that of version 1 if it has none."""
    classifier = repository / names.classifier
    return version_folder(repository, names, max(numbered(classifier), default=1) if classifier.is_dir() else 1)


def facts_of(version: Path) -> dict[str, Any]:
    """What `model.json` says; empty where there is none, or a broken one: such a repository was made by hand."""
    try:
        facts = json.loads((version / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def told_of(repository: Path) -> list[Told]:
    """Each classifier of the repository, by its newest version."""
    told = []
    for names in classifiers_in(repository) or (Names(),):
        facts = facts_of(newest_version(repository, names))
        labels = facts.get("labels")
        told.append(
            Told(
                names,
                str(facts.get("name", names.public)),
                str(facts.get("precision", "unknown precision")),
                tuple(map(str, labels)) if isinstance(labels, list) else (),
            )
        )
    return told
