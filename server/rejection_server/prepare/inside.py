"""A model's files lie in its folder: an index or a link that leads out of it would have any file read as weights."""

from collections.abc import Iterable
from pathlib import Path

from rejection_server.prepare.errors import SourceError

SNAPSHOTS, BLOBS = "snapshots", "blobs"
"""The hub's cache keeps a model's files in the second folder, and links to them in a folder of the first."""


def check_inside(folder: Path, names: Iterable[str]) -> None:
    """Raise SourceError naming the first of the files, given relative to `folder`, that is not in it.

    A folder of the hub's cache may have its files among that model's blobs.
    """
    own = folder.resolve()
    homes = [own, *([own.parents[1] / BLOBS] if own.parent.name == SNAPSHOTS else [])]
    for name in names:
        path = (own / name).resolve()
        if not any(path.is_relative_to(home) for home in homes):
            raise SourceError(
                f"{folder / name} is {path}, outside the model's folder: copy it there if it belongs to the model"
            )
