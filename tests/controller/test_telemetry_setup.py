"""When telemetry is on, off, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from utilctl_common import telemetry

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_without_an_endpoint_the_sdk_and_grpc_are_not_even_imported() -> None:
    code = (
        "import sys; from utilctl_common import telemetry; made = telemetry.setup('utilctl', environ={})\n"
        "with made.tracer.start_as_current_span('x'): assert telemetry.traceparent_of() == ''\n"
        "made.shutdown(); print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'grpc'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_always_sdk_makes_trace_ids_without_an_exporter() -> None:
    made = telemetry.setup("utilctl-controller", always_sdk=True, environ={})
    with made.tracer.start_as_current_span("x"):
        traceparent = telemetry.traceparent_of()
    assert len(telemetry.trace_id_of(traceparent)) == 32
    assert not made.metrics_on
    made.shutdown()


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, False),
    ],
)
def test_the_standard_variables_switch_metrics_on(environ: dict[str, str], wanted: bool) -> None:
    made = telemetry.setup("utilctl", environ={"OTEL_TRACES_EXPORTER": "none", **environ})
    assert made.metrics_on is wanted
    made.shutdown(0.1)


def test_a_span_goes_on_the_trace_it_is_given_and_begins_one_otherwise() -> None:
    spans = InMemorySpanExporter()
    made = telemetry.setup("utilctl", span_exporters=[spans], environ={})
    for traceparent in (PARENT, "", "nonsense"):
        with telemetry.span_from(made.tracer, "step", traceparent):
            pass
    ids = [f"{span.context.trace_id:032x}" for span in spans.get_finished_spans() if span.context]
    assert ids[0] == telemetry.trace_id_of(PARENT) == PARENT.split("-")[1]
    assert len(set(ids)) == 3
    made.shutdown()


@pytest.mark.parametrize("text", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_malformed_traceparent_has_no_trace_id(text: str) -> None:
    assert telemetry.trace_id_of(text) == ""
