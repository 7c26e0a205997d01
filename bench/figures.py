"""Figures out of what was recorded: pure functions over arrays of times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = dict[str, Any]

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a load generator saw: one entry a request that was answered, times in seconds of `time.monotonic`."""

    due: Floats
    """When the request was to be sent; in a closed loop, when it was."""
    done: Floats
    texts: NDArray[np.int64]
    """Texts in the request."""
    begin: float
    """The window that is measured, to `end`."""
    end: float
    failed: int = 0
    """Requests that were refused, failed or not answered in time."""
    error: str = ""
    """What the first of them said."""

    def inside(self) -> NDArray[np.bool_]:
        """Which requests were answered within the window."""
        return (self.done >= self.begin) & (self.done < self.end)


def figures(recorded: Recorded, *, open_loop: bool) -> Row:
    """Rate, latencies and counts of a window."""
    inside = recorded.inside()
    rate = completed_per_s if open_loop else texts_per_s
    return {
        "seconds": round(recorded.end - recorded.begin, 3),
        "requests": int(inside.sum()),
        "texts": int(recorded.texts[inside].sum()),
        "failed": recorded.failed,
        "error": recorded.error or None,
        "texts_per_s": round(rate(recorded), 3),
        "latency_ms": latency_ms(recorded, by_due=open_loop),
    }


def latency_ms(recorded: Recorded, *, by_due: bool) -> dict[str, float]:
    """Percentiles, mean and largest latency of the window's requests, milliseconds.

    Those of an open loop are the ones due in the window, however late their answers; those of a closed loop the ones
    answered in it: of the ones sent in it, the slow would be missing where latencies are as long as the window.
    """
    if not len(recorded.due):
        return {}
    inside = (recorded.due >= recorded.begin) & (recorded.due < recorded.end) if by_due else recorded.inside()
    return spread_ms(1000 * (recorded.done - recorded.due)[inside if inside.any() else slice(None)])


def spread_ms(values: Floats | Sequence[float]) -> dict[str, float]:
    """Percentiles, mean and largest of some times."""
    shares = zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)
    found = {f"p{share}": float(value) for share, value in shares}
    found |= {"mean": float(np.mean(values)), "max": float(np.max(values))}
    return {name: round(value, 3) for name, value in found.items()}


def texts_per_s(recorded: Recorded) -> float:
    """Texts answered per second in the window, a request that is only partly inside counting by that part.

    Whole requests only would make the rate of slow systems depend on where the window falls.
    """
    inside = np.minimum(recorded.done, recorded.end) - np.maximum(recorded.due, recorded.begin)
    spans = np.maximum(recorded.done - recorded.due, 1e-9)
    return float((np.clip(inside / spans, 0, 1) * recorded.texts).sum() / (recorded.end - recorded.begin))


def completed_per_s(recorded: Recorded) -> float:
    """Texts of the requests completed in the window, per second: what an open loop delivers."""
    return float(recorded.texts[recorded.inside()].sum() / (recorded.end - recorded.begin))


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


def merged(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[Row]:
    """Rows of one point in several rounds as one row each: numbers become median, min and max, the rest is the first's.

    Rows belong to one point if they agree in `keys`; the order is that of the first rounds.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    result = []
    for point, group in groups.items():
        figures = _merged(
            [{name: value for name, value in row.items() if name not in (*keys, "round")} for row in group]
        )
        result.append({**dict(zip(keys, point, strict=True)), "rounds": len(group), **figures})
    return result


def _merged(values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, Mapping) for value in known):
        names = dict.fromkeys(name for value in known for name in value)
        return {name: _merged([value.get(name) for value in known]) for name in names}
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return {"median": float(np.median(known)), "min": float(min(known)), "max": float(max(known))}
    return known[0] if known else None
