"""The repository that Triton is given in place of a prepared one: links to its files, and versions that are named.

    public N ── scoring N ─┬─ tokenizer T
                           └─ classifier N

Both ensembles have a version folder of the number of the classifier's version, and the chain names its models by
version. So Triton's response cache, which tells answers apart by the name and version of `scoring`, never gives one
version's answer for another's; versions of the classifier can be loaded side by side; and the parameters of the public
model are those of the version that answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rejection_server.facts import facts_of, numbered, version_folder
from rejection_server.names import Names, classifiers_in
from rejection_server.prepare.configuration import MEANING, meaning_of
from rejection_server.prepare.repository import tokenizer_version

__all__ = ["ServedRepository"]

CONFIG = "config.pbtxt"


class ServedRepository:
    """A model repository in a folder of its own, which is made, with each classifier's newest version at first.

    Args:
        repository: the prepared one, of which nothing is changed; versions may be added to it later.
        configured: where the models' configurations are: the same, or what the sizing made of it.
        folder: does not exist yet.
        config_name: Triton's `--model-config-name`: of a model that has it, `configs/NAME.pbtxt` counts.
    """

    def __init__(self, repository: Path, configured: Path, folder: Path, config_name: str | None = None) -> None:
        self.folder = folder
        self._repository = repository.resolve()
        self._configured = configured
        self._configs: dict[str, Any] = {}
        self.classifiers: tuple[Names, ...] = ()
        """Those whose version can be exchanged."""
        for names in classifiers_in(repository):
            # What is missing or broken is left as it is: Triton tells what is wrong with it.
            with contextlib.suppress(OSError, ValueError, text_format.ParseError):
                configs = {model: _read(configured / model, config_name) for model in names.models}
                if self.versions(names) and numbered(self._repository / names.tokenizer):
                    self._configs |= configs
                    self.classifiers += (names,)
        self._told = {names: self.versions(names)[-1] for names in self.classifiers}
        """The versions of which the public configurations tell as they stand."""
        folder.mkdir()
        for entry in configured.iterdir():
            if entry.name not in self._configs:
                (folder / entry.name).symlink_to(entry.resolve())
        for names in self.classifiers:
            self.write(names, self._told[names])

    def versions(self, names: Names) -> list[int]:
        """The classifier's versions on the disk, ascending."""
        return numbered(self._repository / names.classifier)

    def version_folder(self, names: Names, version: int) -> Path:
        """Where that version of the classifier lies."""
        return version_folder(self._repository, names, version)

    def facts(self, names: Names, version: int) -> dict[str, Any]:
        """What `model.json` says of a version; nothing of one that was made by hand."""
        facts = facts_of(self.version_folder(names, version))
        return {**facts, "version": version} if {"labels", "activation"} <= facts.keys() else {}

    def write(self, names: Names, answering: int, *beside: int) -> list[str]:
        """Have one version answer, and others loaded beside it, as soon as Triton loads the models that are returned.

        Ensembles come first, the public model for both: they let go of a version before it is unloaded.
        """
        loaded = sorted({answering, *beside})
        tokenizers = {version: tokenizer_version(self._repository, names, version) for version in loaded}
        pins = {names.classifier: answering, names.tokenizer: tokenizers[answering]}
        facts = {} if answering == self._told[names] else self.facts(names, answering)
        is_chained = self._put(names.scoring, [answering], pins=pins)
        is_public = self._put(names.public, [answering], meaning=meaning_of(facts) if facts else {})
        changed = [names.public] if is_chained or is_public else []
        changed += [names.tokenizer] if self._put(names.tokenizer, sorted(set(tokenizers.values()))) else []
        return changed + ([names.classifier] if self._put(names.classifier, loaded) else [])

    def _put(
        self,
        model: str,
        versions: Sequence[int],
        pins: Mapping[str, int] = MappingProxyType({}),
        meaning: Mapping[str, str] = MappingProxyType({}),
    ) -> bool:
        """Write a model's configuration and what else it needs for these versions; returns whether it is another."""
        config = model_config_pb2.ModelConfig()
        config.CopyFrom(self._configs[model])
        config.version_policy.Clear()
        config.version_policy.specific.versions.extend(versions)
        for step in config.ensemble_scheduling.step:
            step.model_version = pins.get(step.model_name, -1)
        for name in MEANING if meaning else ():
            config.parameters.pop(name, None)
        for name, value in meaning.items():
            config.parameters[name].string_value = value
        self._link(model, versions, is_ensemble=config.platform == "ensemble")
        return _replaced(self.folder / model / CONFIG, text_format.MessageToString(config))

    def _link(self, model: str, versions: Sequence[int], *, is_ensemble: bool) -> None:
        """Put these versions of a model into its folder, and what all of them share; other versions go."""
        folder, given = self.folder / model, self._configured / model
        folder.mkdir(exist_ok=True)
        shared = [e for e in given.iterdir() if not (e.name.isdecimal() or e.name in (CONFIG, "configs"))]
        wanted = {entry.name: entry.resolve() for entry in shared}
        wanted |= {str(version): self._repository / model / str(version) for version in versions}
        for entry in folder.iterdir():
            # A link whose target was removed would keep Triton from looking at the model at all.
            if entry.name.isdecimal() and entry.name not in wanted:
                entry.unlink() if entry.is_symlink() else entry.rmdir()
        for name, target in wanted.items():
            if not (folder / name).is_symlink() and not (folder / name).exists():
                if is_ensemble and name.isdecimal():
                    (folder / name).mkdir()
                else:
                    (folder / name).symlink_to(target)


def _read(folder: Path, config_name: str | None) -> Any:
    """A model's configuration; raises text_format.ParseError, ValueError or OSError."""
    named = folder / "configs" / f"{config_name}.pbtxt"
    path = named if config_name is not None and named.is_file() else folder / CONFIG
    return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def _replaced(path: Path, text: str) -> bool:
    """Write a file in one step, unless it says that already: Triton takes a new time for a change."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    temporary = path.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return True
