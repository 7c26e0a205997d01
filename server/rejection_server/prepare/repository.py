"""The model repository: put together in a temporary folder, and put in place at once or not at all."""

import contextlib
import ctypes
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rejection_server import MODEL_REPOSITORY
from rejection_server.prepare.configuration import FACTS, MODELS, Shape, configurations
from rejection_server.prepare.errors import OutputError, disk_errors

TOKENIZER_VERSION = "1"
"""Version of tokenizer and ensembles; the classifier alone is switched while requests flow."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class Parts:
    """What a repository is put together of, beside its configuration."""

    graph: Path
    """The ONNX file, which is moved."""
    tokenizer_json: Path
    """The tokenizer, which is copied."""
    sample_rows: Sequence[Sequence[int]]
    """Token ids of texts, of which the first and the last one, short and longest, warm the classifier up."""


def assemble(repository: Path, shape: Shape, parts: Parts, *, version: int) -> None:
    """Write a whole repository to the empty folder `repository`."""
    with disk_errors(repository):
        for model in MODELS:
            (repository / model).mkdir(parents=True)
        configure(repository, shape)
        for ensemble in ("rejection", "scoring"):  # Triton wants a version folder of them, too
            (repository / ensemble / TOKENIZER_VERSION).mkdir()
            (repository / ensemble / TOKENIZER_VERSION / ".gitkeep").touch()
        shutil.copytree(MODEL_REPOSITORY / "tokenizer" / "warmup", repository / "tokenizer" / "warmup")
        write_warmup(repository / "classifier", parts.sample_rows)
        tokenizer = repository / "tokenizer" / TOKENIZER_VERSION
        tokenizer.mkdir()
        for module in sorted((MODEL_REPOSITORY / "tokenizer" / TOKENIZER_VERSION).glob("*.py")):
            shutil.copyfile(module, tokenizer / module.name)
        shutil.copyfile(parts.tokenizer_json, tokenizer / "tokenizer.json")
        classifier = repository / "classifier" / str(version)
        classifier.mkdir()
        parts.graph.replace(classifier / "model.onnx")


def write_warmup(classifier: Path, sample_rows: Sequence[Sequence[int]]) -> None:
    """Write the rows that Triton warms the classifier up with: of real texts, for some models fail on others."""
    folder = classifier / "warmup"
    folder.mkdir(exist_ok=True)
    for name, row in (("short", sample_rows[0]), ("longest", sample_rows[-1])):
        (folder / name).write_bytes(np.asarray(row, "<i8").tobytes())


def configure(repository: Path, shape: Shape) -> None:
    """Write the files that follow from the shape."""
    write_files(repository, configurations(shape))


def write_files(repository: Path, files: Mapping[str, str]) -> None:
    """Write files of the repository, by their path within it."""
    with disk_errors(repository):
        for name, content in files.items():
            (repository / name).write_text(content, encoding="utf-8")


def write_facts(repository: Path, version: int, facts: Mapping[str, Any]) -> None:
    """Write `model.json` beside the ONNX file."""
    path = repository / "classifier" / str(version) / FACTS
    with disk_errors(repository):
        path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def workplace(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output`, on the same disk so that a rename is enough; removed in the end.

    Raises OutputError when nothing can be written there.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.preparing-", dir=output.parent))
    except OSError as exc:
        raise OutputError(f"{output.parent} cannot be written to ({exc.strerror}): choose another --output") from exc
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_output(output: Path) -> None:
    """Raise OutputError if `output` holds anything but a model repository that may be replaced."""
    if output.resolve() == MODEL_REPOSITORY:
        raise OutputError(f"{output} is the bundled model repository, which stays as it is: choose another --output")
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"{output} is a file: choose another --output")
    held = {entry.name for entry in output.iterdir()}
    if held and not (set(MODELS) <= held and any(output.glob(f"classifier/*/{FACTS}"))):
        raise OutputError(f"{output} holds other things than a prepared model repository: choose another --output")


def check_version(output: Path, shape: Shape, version: int, tokenizer_json: Path) -> None:
    """Raise OutputError unless the repository `output` can take a model of this shape as a further version.

    What Triton keeps once for all versions has to be the same: labels, length, activation and tokenizer.
    """
    if version_folder(output, version).exists():
        raise OutputError(f"{output} already has version {version}: take the next number, or remove that folder")
    differs = f"version {version} cannot stand beside the others in {output}: they have"
    other = "; prepare a repository of its own"
    labels = (output / "classifier" / "labels.txt").read_text(encoding="utf-8").splitlines()
    if labels != list(shape.labels):
        raise OutputError(f"{differs} the labels {', '.join(labels)}, this one {', '.join(shape.labels)}{other}")
    if (output / "tokenizer" / TOKENIZER_VERSION / "tokenizer.json").read_bytes() != tokenizer_json.read_bytes():
        raise OutputError(f"{differs} another tokenizer, and a request must not meet one half of each{other}")
    for facts in _facts_of(output):
        for name in ("model_max_length", "model_min_length", "activation"):
            mine = getattr(shape, name)
            if facts.get(name, mine) != mine:
                raise OutputError(f"{differs} {name} {facts[name]}, this one {mine}{other}")
        if facts.get("device", shape.device) != shape.device:
            raise OutputError(f"{differs} the configuration for {facts['device']}, this one for {shape.device}{other}")
        if facts.get("engine", shape.engine) != shape.engine:
            raise OutputError(f"{differs} the engine {facts['engine']}, this one {shape.engine}{other}")


def _facts_of(output: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(output.glob(f"classifier/*/{FACTS}")):
        with contextlib.suppress(ValueError):
            yield json.loads(path.read_text(encoding="utf-8"))


def version_folder(output: Path, version: int) -> Path:
    """Where the classifier's version lies."""
    return output / "classifier" / str(version)


def tidy(staged: Path) -> None:
    """Remove what Python left in the repository while it was tried out."""
    for folder in list(staged.rglob("__pycache__")):
        shutil.rmtree(folder)


def publish_version(staged: Path, output: Path, version: int) -> None:
    """Move the classifier's new version beside the others, in one rename: a Triton that polls sees it whole.

    The public configuration, which says of which model the answers are, follows it.
    """
    public = Path("rejection") / "config.pbtxt"
    with disk_errors(staged):
        version_folder(staged, version).rename(version_folder(output, version))
        (staged / public).replace(output / public)


def publish(staged: Path, output: Path) -> None:
    """Put the repository in place in one step; what was there before goes, and only now."""
    with disk_errors(staged):
        if output.is_dir() and any(output.iterdir()):
            _exchange(staged, output)
            shutil.rmtree(staged)
        else:
            staged.replace(output)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders. Linux can do it without a moment in which either name is missing; Python cannot say so."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            return
        if ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))
    aside = one.with_name(f"{one.name}.before")
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)
