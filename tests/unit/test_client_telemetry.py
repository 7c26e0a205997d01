import subprocess
import sys

from opentelemetry import context, trace

from rejection_client._telemetry import current_trace

SPAN = trace.SpanContext(
    trace_id=0x0AF7651916CD43DD8448EB211C80319C,
    span_id=0xB7AD6B7169203331,
    is_remote=False,
    trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
)


def test_the_current_trace_is_sent() -> None:
    assert current_trace() == {}
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(SPAN)))
    try:
        assert current_trace() == {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    finally:
        context.detach(token)
    assert current_trace() == {}


def test_an_application_without_opentelemetry_does_not_get_it() -> None:
    program = (
        "import sys, rejection_client; from rejection_client._telemetry import current_trace\n"
        "assert current_trace() == {}\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
