"""What a guard has done so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rejection_server.guard.answers import BOUNDS_S, Durations
from rejection_server.guard.refusal import Code

__all__ = ["Counters", "Snapshot"]

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
"""What Prometheus' text format has escaped in values of labels."""


@dataclass(frozen=True)
class Snapshot:
    """A guard at one moment; counts are since its start."""

    calls: dict[str, dict[str, int]]
    """Ended calls by method and name of the status code; cancelled ones are CANCELLED."""
    models: dict[str, int]
    """Inference requests that went to Triton, by public model."""
    refused: int
    """Requests that the guard itself refused, those of streams included."""
    refused_by: dict[str, int]
    """The same by reason: invalid, too_large, full, stopping, forbidden, unauthenticated, unknown_method, late,
    unreachable; and of connections: connections, which were too many, and flood, ended for their frames that carry
    nothing."""
    cancelled: int
    """Calls that their callers gave up."""
    received_bytes: int
    """Bytes that came from callers, HTTP/2 frames and all."""
    sent_bytes: int
    """Bytes that went to callers."""
    certificate_expires: float | None
    """When the certificate that callers see ends, in seconds of the epoch; None without TLS."""
    connections: int
    """Open connections of callers."""
    under_way: int
    """Inference requests under way, those that are not read yet included."""
    under_way_by: dict[str, int]
    """The same by public model, without these."""
    under_way_bytes: int
    """Bytes of requests under way."""
    labels: dict[str, dict[str, int]]
    """Texts by model and most probable label."""
    durations: dict[str, list[int]]
    """Answered inference requests by public model and by bucket of how long they took, `BOUNDS_S`."""
    durations_sum_s: dict[str, float]
    """How long they took together."""

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def with_others(self, others: Sequence[Snapshot]) -> Snapshot:
        """These counts and those of other guards together."""
        together = {
            part.name: _added([getattr(one, part.name) for one in (self, *others)])
            for part in fields(self)
            if part.name != "certificate_expires"
        }
        ends = [one.certificate_expires for one in (self, *others) if one.certificate_expires is not None]
        return Snapshot(**together, certificate_expires=min(ends, default=None))

    def prometheus(self, memory: Mapping[str, int] | None = None) -> str:
        """In Prometheus' text format; `memory` is resident bytes by process."""
        calls = _labelled(("method", "code"), _pairs(self.calls))
        metrics: list[tuple[str, str, str, dict[str, int]]] = [
            ("requests_total", "counter", "Ended calls by method and gRPC status.", calls),
            ("inferences_total", "counter", "Inference requests passed on.", _labelled(("model",), self.models)),
            ("refused_total", "counter", "Requests refused by the guard.", _labelled(("reason",), self.refused_by)),
            (
                "verdicts_total",
                "counter",
                "Answered texts by most probable label, those answered from the cache included.",
                _labelled(("model", "label"), _pairs(self.labels)),
            ),
            ("cancelled_total", "counter", "Calls that their callers gave up.", {"": self.cancelled}),
            ("received_bytes_total", "counter", "Bytes from callers.", {"": self.received_bytes}),
            ("sent_bytes_total", "counter", "Bytes to callers.", {"": self.sent_bytes}),
            ("connections", "gauge", "Open connections of callers.", {"": self.connections}),
            (
                "requests_under_way",
                "gauge",
                "Inference requests under way.",
                _labelled(("model",), self.under_way_by),
            ),
            ("bytes_under_way", "gauge", "Bytes of requests under way.", {"": self.under_way_bytes}),
            (
                "process_memory_bytes",
                "gauge",
                "Resident memory of guard, tritonserver and each model instance.",
                _labelled(("process",), memory or {}),
            ),
        ]
        if self.certificate_expires is not None:
            told = "When the server's certificate ends, seconds of the epoch."
            metrics.append(("certificate_expires_seconds", "gauge", told, {"": round(self.certificate_expires)}))
        lines = []
        for name, kind, told, samples in metrics:
            if samples or kind == "counter":
                lines += [f"# HELP rejection_guard_{name} {told}", f"# TYPE rejection_guard_{name} {kind}"]
                lines += [f"rejection_guard_{name}{labels} {value}" for labels, value in samples.items()]
        return "\n".join([*lines, *self._histogram()]) + "\n"

    def _histogram(self) -> list[str]:
        name = "rejection_request_duration_seconds"
        lines = [
            f"# HELP {name} From a whole inference request to its answer; refused and failed ones are not in it.",
            f"# TYPE {name} histogram",
        ]
        for model, counts in self.durations.items():
            of, so_far = _pair("model", model), 0
            for bound, count in zip((*BOUNDS_S, "+Inf"), counts, strict=True):
                so_far += count
                lines.append(f'{name}_bucket{{{of},le="{bound}"}} {so_far}')
            lines += [f"{name}_sum{{{of}}} {self.durations_sum_s[model]:.6f}", f"{name}_count{{{of}}} {so_far}"]
        return lines


def _added(values: Sequence[Any]) -> Any:
    """The sum of numbers, of lists place by place, of mappings key by key."""
    if isinstance(values[0], dict):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _added([value[key] for value in values if key in value]) for key in keys}
    if isinstance(values[0], list):
        return [_added(places) for places in zip(*values, strict=True)]
    return sum(values)


def _pairs(nested: Mapping[str, Mapping[str, int]]) -> dict[tuple[str, str], int]:
    return {(outer, inner): count for outer, counts in nested.items() for inner, count in counts.items()}


def _labelled(names: tuple[str, ...], counts: Mapping[Any, int]) -> dict[str, int]:
    found = {}
    for key, count in counts.items():
        values = (key,) if isinstance(key, str) else key
        pairs = ",".join(_pair(name, value) for name, value in zip(names, values, strict=True))
        found[f"{{{pairs}}}"] = count
    return found


def _pair(name: str, value: str) -> str:
    return f'{name}="{value.translate(_ESCAPED)}"'


@dataclass
class Counters:
    """Counts as they grow."""

    ended: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Ended calls by method and status code."""
    models: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Texts by model and most probable label."""
    durations: dict[str, Durations] = field(default_factory=dict)
    """Of inference requests that were answered, by public model."""
    cancelled: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0

    def calls(self) -> dict[str, dict[str, int]]:
        """Ended calls by method, then by the code's name."""
        names = {int(code): code.name for code in Code}
        calls: dict[str, dict[str, int]] = {}
        for (method, code), count in sorted(self.ended.items()):
            calls.setdefault(method, {})[names.get(code, str(code))] = count
        return calls

    def by_label(self) -> dict[str, dict[str, int]]:
        """Texts by model, then by most probable label."""
        labels: dict[str, dict[str, int]] = {}
        for (model, label), count in sorted(self.labels.items()):
            labels.setdefault(model, {})[label] = count
        return labels
