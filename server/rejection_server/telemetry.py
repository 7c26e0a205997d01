"""What the libraries below would tell others about their use, turned off.

Each of them reads a variable of the environment when it is imported, and processes inherit it: so the package sets
them all when it is imported, before anything else is. onnxruntime asks a name server for its collector and keeps
events, with a number for this machine, under ~/.cache; its function that turns this off comes too late for both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["SWITCHES", "turn_off"]

SWITCHES: Mapping[str, str] = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, transformers
    "DO_NOT_TRACK": "1",  # whoever else heeds it
}
"""Environment variables, and the values with which nothing is told."""


def turn_off() -> None:
    """Set them for this process and its children, save those that somebody has set otherwise."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
