"""Rates, latencies, queues and batch sizes from two readings of Triton's Prometheus metrics; no network here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

_COUNTERS = (
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
)
_PENDING = "nv_inference_pending_request_count"

_REFUSED = "rejection_guard_refused_total"

Reading = Mapping[str, Mapping[str, float]]
"""Values by model and metric, summed over versions and, for failures, reasons; under "" what the guard before Triton
refused, by reason."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What one model did between two readings; averages are None where nothing was answered."""

    model: str
    requests_per_s: float
    failures_per_s: float
    """Failed requests, each once. What a step of an ensemble refuses is a failure of the ensemble alone: Triton counts
    it for the step as a success."""
    texts_per_s: float
    """Rows of all requests."""

    latency_ms: float | None
    """Average time of a request in the server."""

    queue_ms: float | None
    """Average part of it spent waiting."""

    batch_size: float | None
    """Average rows run together."""

    waiting: int
    """Requests in the queue now."""


def parse(text: str) -> Reading:
    """Read what the metrics endpoint answers."""
    reading: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None or sample["name"] not in (*_COUNTERS, _PENDING, _REFUSED):
            continue
        labels = dict(_LABEL.findall(sample["labels"] or ""))
        reason = labels.get("reason", "")
        model, name = ("", reason) if sample["name"] == _REFUSED else (labels.get("model"), sample["name"])
        if model is not None:
            values = reading.setdefault(model, {})
            # Triton counts a failure in an ensemble twice: as it answers, and as it lets the request go.
            times = 2 if name == "nv_inference_request_failure" and reason == "OTHER" else 1
            values[name] = values.get(name, 0.0) + float(sample["value"]) / times
    return reading


def activity(before: Reading, after: Reading, seconds: float) -> list[Activity]:
    """What each model did in between; counters that went back belong to a server that was started anew."""
    rows = []
    for model, now in sorted(after.items()):
        if not model:
            continue
        then = before.get(model, {})
        if any(now.get(name, 0.0) < then.get(name, 0.0) for name in _COUNTERS):
            then = {}
        success, failure, count, executions, total_us, queue_us = (
            now.get(name, 0.0) - then.get(name, 0.0) for name in _COUNTERS
        )
        rows.append(
            Activity(
                model=model,
                requests_per_s=success / seconds,
                failures_per_s=failure / seconds,
                texts_per_s=count / seconds,
                latency_ms=total_us / success / 1000 if success else None,
                queue_ms=queue_us / success / 1000 if success else None,
                batch_size=count / executions if executions else None,
                waiting=round(now.get(_PENDING, 0.0)),
            )
        )
    return rows


def refusals(before: Reading, after: Reading, seconds: float) -> dict[str, float]:
    """Requests a second that the guard refused before Triton saw them, by reason; empty where there is no guard."""
    now, then = after.get("", {}), before.get("", {})
    if any(value < then.get(reason, 0.0) for reason, value in now.items()):
        then = {}
    return {reason: (value - then.get(reason, 0.0)) / seconds for reason, value in sorted(now.items())}


def table(rows: list[Activity], refused: Mapping[str, float]) -> str:
    """The activity as a table, and a line for what was refused before Triton."""
    width = max(5, *(len(row.model) for row in rows)) if rows else 5
    lines = [f"{'MODEL':<{width}}  REQUESTS/S  FAILED/S   TEXTS/S  LATENCY ms  QUEUE ms  BATCH  WAITING"]
    for row in rows:
        lines.append(
            f"{row.model:<{width}}  {row.requests_per_s:>10.1f}  {row.failures_per_s:>8.1f}  {row.texts_per_s:>8.1f}  "
            f"{_number(row.latency_ms):>10}  {_number(row.queue_ms):>8}  {_number(row.batch_size):>5}  {row.waiting:>7}"
        )
    if refused:
        reasons = "".join(f", {reason} {rate:.1f}" for reason, rate in refused.items() if rate)
        lines.append(f"refused before Triton: {sum(refused.values()):.1f}/s{reasons}")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
