"""What the commands are called: in a checkout its scripts, elsewhere the programs that the packages install."""

from __future__ import annotations

import os
import sys

__all__ = ["command", "installing"]

_PROGRAMS = {
    "serve": "rejection-server serve",
    "prepare": "rejection-server prepare",
    "classify": "rejection classify",
    "reload": "rejection-server reload",
}


def command(name: str) -> str:
    """What a person types for `serve`, `prepare`, `classify`, or `reload`, which has no script of its own."""
    if not (folder := _scripts()):
        return _PROGRAMS[name]
    return f"{os.path.relpath(sys.prefix)}/bin/{_PROGRAMS[name]}" if name == "reload" else f"{folder}/{name}"


def installing(extra: str) -> str:
    """What a person types to install an extra of this package."""
    kind = "serve" if extra == "embedded" else extra
    return f"{folder}/install {kind}" if (folder := _scripts()) else f"pip install 'rejection-server[{extra}]'"


def _scripts() -> str:
    """The folder of the scripts, if one of them started this process (scripts/_environment.sh says so)."""
    return os.environ.get("REJECTION_SCRIPTS", "")
