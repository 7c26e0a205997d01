"""The trace that a call belongs to, where the application traces with OpenTelemetry."""

from __future__ import annotations

import sys

__all__ = ["current_trace"]


def current_trace() -> dict[str, str]:
    """Metadata that lets the server's spans continue the current OpenTelemetry trace; empty without one.

    An application that never imported OpenTelemetry has no trace, and it is not imported for one.
    """
    carrier: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(carrier)
    return carrier
