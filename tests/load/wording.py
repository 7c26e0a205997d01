"""Figures in words."""

from __future__ import annotations


def ms(value: float | None) -> str:
    """A latency as a person reads it."""
    if value is None:
        return "-"
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"
