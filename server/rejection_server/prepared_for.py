"""What a repository was prepared for, and whether a machine has it; of the standard library alone.

Also a program that a Python without this package's requirements can run, before the environment for GPUs is installed:

    python -m rejection_server.prepared_for serve --device gpu --repository PATH ...
    python -m rejection_server.prepared_for bench

It exits with 0, or with 1 or 2 and a sentence where the start would end in that sentence once all is installed.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rejection_server import MODEL_REPOSITORY
from rejection_server.commands import command
from rejection_server.facts import facts_of, newest_version
from rejection_server.names import classifiers_in

__all__ = ["DRIVER", "NO_BACKEND", "NO_DRIVER", "TRITON", "device_problem", "no_repository", "uses_tensorrt"]

DRIVER = "libcuda.so.1"
TRITON = "REJECTION_TRITON"
"""Environment variable that names the folder of an installed Triton."""
NO_DRIVER = (
    f"this machine has no {DRIVER}, the driver of NVIDIA's GPUs: install it, or give the container the GPU (docker run "
    "--gpus all)"
)
NO_BACKEND = (
    "the repository is for TensorRT, and this Triton has no backend for it: serve it with NVIDIA's image "
    "(docker/Dockerfile.triton), or prepare the model without --engine tensorrt"
)


def no_repository(repository: Path) -> str:
    """What to do where there is no such folder."""
    return f"there is no model repository at {repository}: name an existing folder with --repository"


def device_problem(repository: Path, device: str) -> str | None:
    """Why the repository is not for that device, cpu or gpu."""
    found = {facts_of(newest_version(repository, names)).get("device", device) for names in classifiers_in(repository)}
    if found <= {device}:
        return None
    made_for = min(found - {device})
    other = "a GPU" if made_for == "gpu" else "processors"
    way = (
        "add --device gpu"
        if made_for == "gpu"
        else f"leave out --device gpu, or make one with {command('prepare')} MODEL --device gpu"
    )
    return f"the model repository {repository} was prepared for {other}: {way}"


def uses_tensorrt(repository: Path) -> list[Path]:
    """Folders of the classifiers' versions that TensorRT is to run."""
    versions = [newest_version(repository, names) for names in classifiers_in(repository)]
    return [version for version in versions if facts_of(version).get("engine") == "tensorrt"]


def main(arguments: Sequence[str]) -> int:
    """Say what ends the start on a GPU whatever is installed; returns the exit status."""
    name, *options = arguments
    if name == "serve" and (repository := _repository(options)) is not None:
        if not repository.is_dir():
            return _end(name, no_repository(repository), 1)
        if problem := device_problem(repository, "gpu"):
            return _end(name, problem, 2)
        if uses_tensorrt(repository) and not os.environ.get(TRITON):
            return _end(name, NO_BACKEND, 1)
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return _end(name, NO_DRIVER, 1)
    return 0


def _repository(options: Sequence[str]) -> Path | None:
    """The repository that `serve` is given; None where a file may name it, which takes more to read."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--repository", default=os.environ.get("REJECTION_REPOSITORY"))
    parser.add_argument("--config", default=os.environ.get("REJECTION_CONFIG"))
    given, _ = parser.parse_known_args(options[: options.index("--")] if "--" in options else options)
    if given.repository is None and given.config is not None:
        return None
    return Path(given.repository or MODEL_REPOSITORY)


def _end(name: str, problem: str, status: int) -> int:
    sys.stderr.write(f"scripts/{name}: {problem}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
