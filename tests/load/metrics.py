"""Triton's metrics, which it tells in Prometheus' text format."""

from __future__ import annotations

import urllib.request
from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 2.0
FAILURES = "nv_inference_request_failure"
Reading = Mapping[str, Mapping[str, float]]
"""Values by metric and model ("" for those of no model), summed over versions and, for failures, reasons.

A request that failed counts once. Triton counts one that failed in an ensemble twice, both times as `OTHER`: once as it
answers, once as it lets the request go. It uses that reason for ensembles only.
"""


def read(text: str) -> Reading:
    """Read what the endpoint answered; raises ValueError for what is no Prometheus text."""
    reading: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # The parser appends `_total` to a counter's name where Triton has none.
            name = family.name if family.type == "counter" else sample.name
            twice = name == FAILURES and sample.labels.get("reason") == "OTHER"
            reading[name][sample.labels.get("model", "")] += sample.value / 2 if twice else sample.value
    return reading


def fetch(url: str) -> Reading:
    """Ask the endpoint; raises OSError where it does not answer, ValueError for another answer than metrics."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        return read(response.read().decode())


def rise(before: Reading, after: Reading, metric: str) -> dict[str, float]:
    """By how much a counter rose for each model; one that went back belongs to a server that was started anew: 0."""
    then = before.get(metric, {})
    return {model: max(0.0, value - then.get(model, 0.0)) for model, value in after.get(metric, {}).items()}
