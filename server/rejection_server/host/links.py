"""A model repository made of links to another one, in which some files differ; that one is never touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["CONFIG", "link_all", "linked_repository"]

CONFIG = "config.pbtxt"


def linked_repository(repository: Path, folder: Path, configs: Mapping[str, str]) -> Path:
    """Make `folder` the same repository, with other configurations of the models in `configs`; returns `folder`."""
    link_all((model for model in repository.iterdir() if model.name not in configs), folder)
    for model, text in configs.items():
        link_all((entry for entry in (repository / model).iterdir() if entry.name != CONFIG), folder / model)
        (folder / model / CONFIG).write_text(text, encoding="utf-8")
    return folder


def link_all(entries: Iterable[Path], folder: Path) -> None:
    """Make `folder`, with a link to each of these under its own name."""
    folder.mkdir()
    for entry in entries:
        (folder / entry.name).symlink_to(entry.resolve())
