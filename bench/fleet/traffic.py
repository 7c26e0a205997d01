"""How many texts arrive in each second of a day."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY_S = 86_400


def day(peak: float, *, seed: int = 0) -> Floats:
    """Mean texts a second [86400]: quiet at night, two humps by day, and bursts.

    `peak` is the highest rate without bursts. A burst doubles the rate within five seconds and fades in minutes; there
    are twelve, at moments drawn with `seed`, and one in the evening triples it.
    """
    hours = np.arange(DAY_S) / 3600
    humps = np.exp(-(((hours - 10.5) / 2.2) ** 2)) + 0.9 * np.exp(-(((hours - 15.5) / 2.8) ** 2))
    rate = 0.12 + 0.88 * humps / humps.max()
    generator = np.random.default_rng(seed)
    starts = [*generator.integers(0, DAY_S, 12).tolist(), 20 * 3600]
    for index, start in enumerate(starts):
        after = np.arange(DAY_S) - start
        height = 2.0 if index == len(starts) - 1 else 1.0
        rise = np.clip(after / 5, 0, 1)
        rate *= 1 + height * np.where(after >= 0, rise * np.exp(-np.maximum(after, 0) / 180), 0)
    return np.asarray(peak * rate)
