"""Sections for the tests of `bench.gpu.results`, importable by the processes that run them."""

import os
import time

from bench.gpu.plan import GpuSettings
from bench.gpu.results import Add


def fails(_: GpuSettings, add: Add) -> None:
    """Adds a figure and raises."""
    add("rate", tokens=1)
    raise RuntimeError("the GPU is\n gone")


def dies(_: GpuSettings, add: Add) -> None:
    """Adds a figure and is gone, as after a fault in a driver."""
    add("rate", tokens=2)
    os._exit(9)


def hangs(_: GpuSettings, add: Add) -> None:
    """Adds a figure and never ends."""
    add("rate", tokens=3)
    time.sleep(3600)


def works(_: GpuSettings, add: Add) -> None:
    """Adds a figure."""
    add("rate", tokens=4)
