"""How the arrival rate goes over a run, by name."""

from __future__ import annotations

from dataclasses import dataclass

SHAPES = ("steady", "ramp", "spike", "soak", "knee", "overload")
SEARCHING = ("knee", "overload")
"""Shapes that find their rates themselves."""

SPIKE_FACTOR = 10
SPIKE_S = 10.0
OVERLOAD_FACTOR = 3
BASELINE_S = 10.0
RECOVERY_S = 20.0
RECOVERY_SHARE = 0.5
"""Rate before and after an overload, as a share of the knee."""

DEFAULT_DURATION_S = {"steady": 60.0, "ramp": 60.0, "spike": 60.0, "soak": 3600.0, "knee": 30.0, "overload": 60.0}
"""For the knee: of the run that confirms it; for the overload: of the overload alone."""


@dataclass(frozen=True)
class Part:
    """A span of a profile with a name, for tables and shading."""

    name: str
    begin_s: float
    end_s: float
    rate: float
    """Requests per second at its end."""


def parts(shape: str, rate: float, duration_s: float) -> tuple[Part, ...]:
    """What a run of a shape is made of; for `overload`, `rate` is the knee.

    Raises ValueError for a duration that a shape has no room in.
    """
    if shape in ("steady", "soak", "ramp", "knee"):
        return (Part(shape, 0.0, duration_s, rate),)
    if shape == "spike":
        calm_s = (duration_s - SPIKE_S) / 2
        if calm_s < 1:
            raise ValueError(f"a spike takes {SPIKE_S:g} s between two calm spans: give it {SPIKE_S + 2:g} s or more")
        return (
            Part("before", 0.0, calm_s, rate),
            Part("spike", calm_s, calm_s + SPIKE_S, rate * SPIKE_FACTOR),
            Part("after", calm_s + SPIKE_S, duration_s, rate),
        )
    if shape == "overload":
        end_s = BASELINE_S + duration_s
        calm = rate * RECOVERY_SHARE
        return (
            Part("before", 0.0, BASELINE_S, calm),
            Part("overload", BASELINE_S, end_s, rate * OVERLOAD_FACTOR),
            Part("after", end_s, end_s + RECOVERY_S, calm),
        )
    raise ValueError(f"there is no shape '{shape}'; give one of {', '.join(SHAPES)}")


def profile(shape: str, rate: float, duration_s: float) -> list[tuple[float, float]]:
    """The shape as points (seconds, requests per second); a ramp rises from a tenth of the rate."""
    if shape == "ramp":
        return [(0.0, rate / 10), (duration_s, rate)]
    points = []
    for part in parts(shape, rate, duration_s):
        points += [(part.begin_s, part.rate), (part.end_s, part.rate)]
    return points
