"""The model repository: put together in a temporary folder, and put in place at once or not at all."""

import contextlib
import ctypes
import errno
import fcntl
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
from rejection_server.facts import FACTS, numbered, version_folder
from rejection_server.names import Names, classifiers_in
from rejection_server.prepare.configuration import Device, Shape, configurations, newest_facts
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


def assemble(repository: Path, names: Names, shape: Shape, parts: Parts, *, version: int) -> None:
    """Write a whole repository of one classifier to the empty folder `repository`."""
    with disk_errors(repository):
        for model in names.models:
            (repository / model).mkdir(parents=True)
        write_files(repository, configurations(shape, names))
        for ensemble in (names.public, names.scoring):  # Triton wants a version folder of them, too
            (repository / ensemble / TOKENIZER_VERSION).mkdir()
            (repository / ensemble / TOKENIZER_VERSION / ".gitkeep").touch()
        bundled = MODEL_REPOSITORY / Names().tokenizer
        shutil.copytree(bundled / "warmup", repository / names.tokenizer / "warmup")
        write_warmup(repository / names.classifier, parts.sample_rows)
        tokenizer = repository / names.tokenizer / TOKENIZER_VERSION
        tokenizer.mkdir()
        for module in sorted((bundled / TOKENIZER_VERSION).glob("*.py")):
            shutil.copyfile(module, tokenizer / module.name)
        shutil.copyfile(parts.tokenizer_json, tokenizer / "tokenizer.json")
        classifier = version_folder(repository, names, version)
        classifier.mkdir()
        parts.graph.replace(classifier / "model.onnx")


def write_warmup(classifier: Path, sample_rows: Sequence[Sequence[int]]) -> None:
    """Write the rows that Triton warms the classifier up with: of real texts, for some models fail on others."""
    folder = classifier / "warmup"
    folder.mkdir(exist_ok=True)
    for name, row in (("short", sample_rows[0]), ("longest", sample_rows[-1])):
        (folder / name).write_bytes(np.asarray(row, "<i8").tobytes())


def write_files(repository: Path, files: Mapping[str, str]) -> None:
    """Write files of the repository, by their path within it."""
    with disk_errors(repository):
        for name, content in files.items():
            (repository / name).write_text(content, encoding="utf-8")


def write_facts(version: Path, facts: Mapping[str, Any]) -> None:
    """Write `model.json` beside the ONNX file, in the version's folder."""
    with disk_errors(version):
        (version / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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


def check_output(output: Path, names: Names, *, replaces: bool = True) -> None:
    """Raise OutputError unless a repository of this classifier may go to `output`.

    It may not where other things are, nor, if it `replaces` what is there, where other classifiers are.
    """
    _check_bundled(output, "choose another --output")
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"{output} is a file: choose another --output")
    if not any(output.iterdir()):
        return
    held = _prepared(output)
    if not held:
        raise OutputError(f"{output} holds other things than a prepared model repository: choose another --output")
    kept = {model for other in held for model in other.models}
    lost = [other.public for other in held if other != names]
    lost += sorted(path.name for path in output.iterdir() if path.name not in kept and not path.name.startswith("."))
    if replaces and lost:
        raise OutputError(
            f"{output} holds {', '.join(lost)}, which would be lost: add {names.public} with --add-to, or choose "
            "another --output"
        )


def check_addition(output: Path, names: Names, device: Device) -> None:
    """Raise OutputError unless `output` is a repository for that device that can take a classifier of this name."""
    _check_bundled(output, "add to a copy of it")
    held = _prepared(output)
    if not held:
        raise OutputError(f"{output} is no prepared model repository: make one with --output, or correct --add-to")
    _check_free(output, names)
    for other in held:
        made_for = newest_facts(output, other).get("device", device)
        if made_for != device:
            raise OutputError(f"{output} is for {made_for}, as {other.public} in it is: add --device {made_for}")


def _check_bundled(output: Path, instead: str) -> None:
    if output.resolve() == MODEL_REPOSITORY:
        raise OutputError(f"{output} is the bundled model repository, which stays as it is: {instead}")


def _prepared(output: Path) -> list[Names]:
    """The classifiers of a repository that are whole."""
    return [
        names
        for names in classifiers_in(output)
        if all((output / model).is_dir() for model in names.models)
        and any(output.glob(f"{names.classifier}/*/{FACTS}"))
    ]


def _check_free(output: Path, names: Names) -> None:
    if taken := [model for model in names.models if (output / model).exists()]:
        raise OutputError(
            f"{output} already has {taken[0]}: choose another --name, or add a version to it with --output, --version"
        )


def check_number(output: Path, names: Names, version: int) -> None:
    """Raise OutputError if the classifier in `output` has a version of that number."""
    if version_folder(output, names, version).exists():
        raise OutputError(f"{output} already has version {version}: take the next number, or remove that folder")


def check_version(output: Path, names: Names, shape: Shape, version: int, tokenizer_json: Path) -> None:
    """Raise OutputError unless the classifier in `output` can take a model of this shape as a further version.

    What Triton keeps once for all versions has to be the same: labels, length and activation. A tokenizer of its own is
    for the newest version alone, whose number it bears: those that follow share it.
    """
    check_number(output, names, version)
    differs = f"version {version} cannot stand beside the others in {output}: they have"
    other = "; prepare a repository of its own"
    labels = (output / names.classifier / "labels.txt").read_text(encoding="utf-8").splitlines()
    if labels != list(shape.labels):
        raise OutputError(f"{differs} the labels {', '.join(labels)}, this one {', '.join(shape.labels)}{other}")
    newest = max(numbered(output / names.classifier), default=0)
    if version < newest and not _shares_tokenizer(output, names, version, tokenizer_json):
        raise OutputError(
            f"version {version} has a tokenizer of its own and would come between others in {output}, which share one: "
            f"take {newest + 1}"
        )
    for facts in _facts_of(output / names.classifier):
        for name in ("model_max_length", "model_min_length", "activation"):
            mine = getattr(shape, name)
            if facts.get(name, mine) != mine:
                raise OutputError(f"{differs} {name} {facts[name]}, this one {mine}{other}")
        if facts.get("device", shape.device) != shape.device:
            raise OutputError(f"{differs} the configuration for {facts['device']}, this one for {shape.device}{other}")
        if facts.get("engine", shape.engine) != shape.engine:
            raise OutputError(f"{differs} the engine {facts['engine']}, this one {shape.engine}{other}")


def _facts_of(classifier: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(classifier.glob(f"*/{FACTS}")):
        with contextlib.suppress(ValueError):
            yield json.loads(path.read_text(encoding="utf-8"))


def tokenizer_version(output: Path, names: Names, version: int) -> int:
    """The tokenizer's version that belongs to one of the classifier: its own, or else the nearest one before."""
    found = numbered(output / names.tokenizer)
    return max((one for one in found if one <= version), default=found[0])


def _shares_tokenizer(output: Path, names: Names, version: int, tokenizer_json: Path) -> bool:
    held = output / names.tokenizer / str(tokenizer_version(output, names, version)) / tokenizer_json.name
    return held.read_bytes() == tokenizer_json.read_bytes()


def tidy(staged: Path) -> None:
    """Remove what Python left in the repository while it was tried out."""
    for folder in list(staged.rglob("__pycache__")):
        shutil.rmtree(folder)


def publish_version(staged: Path, output: Path, names: Names, version: int) -> None:
    """Move the classifier's new version beside the others, in one rename: a Triton that polls sees it whole.

    A tokenizer that is another goes before it. The public configuration, which says of which model the newest version's
    answers are, follows it.
    """
    public = Path(names.public) / "config.pbtxt"
    tokenizer = staged / names.tokenizer / TOKENIZER_VERSION
    with disk_errors(staged):
        if not _shares_tokenizer(output, names, version, tokenizer / "tokenizer.json"):
            tokenizer.rename(output / names.tokenizer / str(version))
        version_folder(staged, names, version).rename(version_folder(output, names, version))
        if version == max(numbered(output / names.classifier)):
            (staged / public).replace(output / public)


def publish(staged: Path, output: Path) -> None:
    """Put the repository in place in one step; what was there before goes, and only now."""
    with disk_errors(staged):
        if output.is_dir() and any(output.iterdir()):
            _exchange(staged, output)
            shutil.rmtree(staged)
        else:
            staged.replace(output)


def publish_beside(staged: Path, output: Path, names: Names) -> None:
    """Add the staged classifier to the repository `output`, in one step: all of its models are there, or none.

    Raises OutputError if another has taken the name meanwhile.
    """
    whole = staged.with_name(f"{staged.name}.whole")
    with disk_errors(staged), _alone(output.parent):
        _check_free(output, names)
        shutil.copytree(output, whole, symlinks=True, copy_function=_linked)
        for model in names.models:
            (staged / model).rename(whole / model)
        publish(whole, output)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until nobody else adds to a repository in this folder: who does so puts back what it found there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _linked(source: str, target: str) -> str:
    """The same file under another name, a copy where the disk knows no such thing: models are large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


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
