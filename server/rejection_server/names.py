"""What the Triton models of a classifier are called; of the standard library alone.

A classifier is four models of a repository. One is public, under the classifier's own name; the others are its parts:

    rejection              toxicity
    ├── scoring            ├── toxicity_scoring       the cached chain of the two below
    ├── tokenizer          ├── toxicity_tokenizer
    └── classifier         └── toxicity_classifier

The parts of the default name go without a prefix. Names that end like a part are nobody's own, so no two classifiers
can ask for the same model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEFAULT", "PARTS", "Names", "classifier_name", "classifiers_in"]

DEFAULT = "rejection"
PARTS = ("scoring", "tokenizer", "classifier")
"""What `Names` calls them, too."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_PART = re.compile(rf"(?:(?P<public>.+)_)?(?P<part>{'|'.join(PARTS)})")


@dataclass(frozen=True)
class Names:
    """The models of one classifier."""

    public: str = DEFAULT
    """The ensemble that callers name."""

    @property
    def scoring(self) -> str:
        """The ensemble of tokenizer and classifier, with the response cache."""
        return self._part("scoring")

    @property
    def tokenizer(self) -> str:
        """Text to token ids."""
        return self._part("tokenizer")

    @property
    def classifier(self) -> str:
        """Token ids to scores."""
        return self._part("classifier")

    @property
    def models(self) -> tuple[str, str, str, str]:
        """All four, the public one first."""
        return (self.public, self.scoring, self.tokenizer, self.classifier)

    def _part(self, part: str) -> str:
        return part if self.public == DEFAULT else f"{self.public}_{part}"


def classifier_name(name: str) -> str:
    """The name, if a classifier may have it; raises ValueError with a sentence if not."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"'{name}' is no name for a classifier: take 1 to 64 of a-z, 0-9, - and _, the first a letter or digit"
        )
    if (part := _PART.fullmatch(name)) is not None:
        raise ValueError(f"'{name}' is no name for a classifier: those that end in {part['part']} are of its parts")
    return name


def classifiers_in(repository: Path) -> tuple[Names, ...]:
    """The classifiers of a model repository, by their folders, in the order of their names; empty if it has none."""
    found = []
    for folder in repository.iterdir() if repository.is_dir() else ():
        part = _PART.fullmatch(folder.name)
        if part is not None and part["part"] == "classifier" and folder.is_dir():
            names = Names(part["public"] or DEFAULT)
            found += [names] if names.classifier == folder.name else []
    return tuple(sorted(found, key=lambda names: names.public))
