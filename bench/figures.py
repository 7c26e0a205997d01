"""Figures out of what was recorded: pure functions over arrays of times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a load generator saw: one entry a request that was answered, times in seconds of one clock."""

    due: Floats
    """When the request was to be sent; in a closed loop, when it was."""
    done: Floats
    texts: NDArray[np.int64]
    """Texts in the request."""
    failed: int = 0
    """Requests that were refused, failed or not answered in time."""
    error: str = ""
    """What the first of them said."""


def latency_ms(recorded: Recorded, begin: float, end: float, *, by_due: bool) -> dict[str, float]:
    """Percentiles, mean and largest latency of the window's requests, milliseconds.

    Those of an open loop are the ones due in [begin, end), however late their answers; those of a closed loop the ones
    answered in it: of the ones sent in it, the slow would be missing where latencies are as long as the window.
    """
    moment = recorded.due if by_due else recorded.done
    inside = (moment >= begin) & (moment < end)
    if not inside.any():
        inside = np.ones_like(inside)
    if not len(recorded.due):
        return {}
    values = (recorded.done[inside] - recorded.due[inside]) * 1000
    figures = {f"p{share}": float(np.percentile(values, share)) for share in PERCENTILES}
    return {**figures, "mean": float(values.mean()), "max": float(values.max())}


def texts_per_s(recorded: Recorded, begin: float, end: float) -> float:
    """Texts answered per second in [begin, end), a request that is only partly inside counting by that part.

    Whole requests only would make the rate of slow systems depend on where the window falls.
    """
    if end <= begin:
        return 0.0
    inside = np.minimum(recorded.done, end) - np.maximum(recorded.due, begin)
    spans = np.maximum(recorded.done - recorded.due, 1e-9)
    return float((np.clip(inside / spans, 0, 1) * recorded.texts).sum() / (end - begin))


def completed_per_s(recorded: Recorded, begin: float, end: float) -> float:
    """Texts of the requests completed in [begin, end), per second: what an open loop delivers."""
    inside = (recorded.done >= begin) & (recorded.done < end)
    return float(recorded.texts[inside].sum() / (end - begin)) if end > begin else 0.0


def arrivals(rate: float, seconds: float) -> Floats:
    """When requests are due at a constant rate, seconds from the start: the first at 0, the last before `seconds`."""
    if rate <= 0 or seconds <= 0:
        raise ValueError(f"a rate and a duration are above 0, not {rate:g} and {seconds:g}")
    return np.arange(int(np.ceil(rate * seconds - 1e-9))) / rate


def difference(answers: Floats, reference: Floats) -> dict[str, float]:
    """How far probabilities [texts, labels] are from the reference; rows with an unknown one (NaN) do not count."""
    known = ~(np.isnan(answers).any(axis=1) | np.isnan(reference).any(axis=1))
    if not known.any():
        return {"texts": 0}
    gap = np.abs(answers[known] - reference[known])
    return {"texts": int(known.sum()), "max": float(gap.max()), "mean": float(gap.mean())}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median of the rounds, and their smallest and largest."""
    return {"median": float(np.median(values)), "min": float(min(values)), "max": float(max(values))}


def merged(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of one point in several rounds as one row each: numbers become their `spread`, the rest is the first's.

    Rows belong to one point if they agree in `keys`; the order is that of the first rounds.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    result = []
    for group in groups.values():
        one: dict[str, Any] = {key: group[0].get(key) for key in keys}
        one["rounds"] = len(group)
        for name in dict.fromkeys(name for row in group for name in row):
            if name in keys or name == "round":
                continue
            one[name] = _merged_value([row[name] for row in group if row.get(name) is not None])
        result.append(one)
    return result


def _merged_value(values: list[Any]) -> Any:
    if not values:
        return None
    if all(isinstance(value, Mapping) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: _merged_value([v[name] for v in values if v.get(name) is not None]) for name in names}
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return spread(values)
    return values[0]
