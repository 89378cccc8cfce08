"""Traces and metrics by OpenTelemetry, switched on by the standard ``OTEL_*`` variables alone.

Without an endpoint nothing is exported and the SDK is not even imported (its API costs about 7 ms of
start-up, the SDK with its OTLP exporter about 200 ms). Nothing here touches OpenTelemetry's process-wide
providers: a program passes its :class:`Telemetry` on, so that several parts can live in one process
(``utilctl demo``) under their own names.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import Meter, NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

TRACEPARENT: Final = "traceparent"
"""Key of the W3C trace context, in gRPC metadata and in carriers."""

DEFAULT_SHUTDOWN_S: Final = 1.0
"""Longest wait for the last export, in seconds. Arbitrary: an absent collector must not hold a program up."""

_LOG = logging.getLogger(__name__)
_PROPAGATOR: Final = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The tracer and meter of one program; both cost next to nothing where nothing is exported.

    ``metrics_on`` is False where measurements go nowhere, so that preparing them can be saved.
    """

    tracer: Tracer
    meter: Meter
    metrics_on: bool = False
    _providers: tuple[object, ...] = field(default=(), repr=False)

    def shutdown(self, timeout_s: float = DEFAULT_SHUTDOWN_S) -> None:
        """Export what is left and stop, giving up after ``timeout_s`` seconds. Idempotent; raises nothing."""
        threads = [
            threading.Thread(target=_shutdown_quietly, args=(provider,), daemon=True, name="telemetry-end")
            for provider in self._providers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout_s)


def _shutdown_quietly(provider: object) -> None:
    try:
        provider.shutdown()  # type: ignore[attr-defined] # both SDK providers have it; they share no base class
    except Exception:  # noqa: BLE001 - an exporter may raise anything; telemetry must never fail the program
        _LOG.debug("telemetry shutdown failed", exc_info=True)


def setup(
    service_name: str,
    *,
    always_sdk: bool = False,
    span_exporters: Sequence[SpanExporter] = (),
    metric_readers: Sequence[MetricReader] = (),
    environ: Mapping[str, str] = os.environ,
    scraped_at: str = "",
) -> Telemetry:
    """The telemetry of the program ``service_name`` (``OTEL_SERVICE_NAME`` overrides it).

    Traces and metrics go by OTLP over gRPC to the endpoint that ``OTEL_EXPORTER_OTLP_ENDPOINT`` or its
    ``_TRACES_`` and ``_METRICS_`` forms name; without one nothing is exported. ``always_sdk`` makes real
    trace ids even then. ``span_exporters`` and ``metric_readers`` get everything besides, at once.
    ``environ`` only decides what is switched on; the exporters read their options from the process
    environment. ``scraped_at``, HOST:PORT, is where Prometheus may fetch the metrics, too; empty: nowhere.
    Raises FailedError if that address is taken, and nothing else.
    """
    wants_spans = _exports("TRACES", environ)
    wants_metrics = _exports("METRICS", environ)
    tracer: Tracer = NoOpTracerProvider().get_tracer(service_name)
    meter: Meter = NoOpMeterProvider().get_meter(service_name)
    providers: list[object] = []
    if wants_spans or always_sdk or span_exporters:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

        # shutdown_on_exit would flush without a bound at interpreter exit; shutdown() above is bounded.
        tracer_provider = TracerProvider(resource=_resource(service_name, environ), shutdown_on_exit=False)
        for exporter in span_exporters:
            tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
        if wants_spans:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

            tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        tracer = tracer_provider.get_tracer(service_name)
        providers.append(tracer_provider)
    if wants_metrics or metric_readers or scraped_at:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        readers = list(metric_readers)
        if scraped_at:
            from utilctl_common.scraping import served_reader

            readers.append(served_reader(scraped_at))
        if wants_metrics:
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

            readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
        meter_provider = MeterProvider(
            metric_readers=readers, resource=_resource(service_name, environ), shutdown_on_exit=False
        )
        meter = meter_provider.get_meter(service_name)
        providers.append(meter_provider)
    return Telemetry(tracer, meter, wants_metrics or bool(metric_readers or scraped_at), tuple(providers))


def _exports(signal: str, environ: Mapping[str, str]) -> bool:
    """Whether the standard variables ask for ``signal`` (TRACES or METRICS) to be exported."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() == "none":
        return False
    endpoints = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if not any(environ.get(name, "").strip() for name in endpoints):
        return False
    protocols = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((environ[name] for name in protocols if environ.get(name)), "grpc")
    if protocol != "grpc":
        _LOG.warning("OTLP protocol %s is unknown here: %s not exported; use grpc", protocol, signal.lower())
        return False
    return True


def _resource(service_name: str, environ: Mapping[str, str]) -> Resource:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    # Attributes given in code win over the environment, and the operator's name should win over ours.
    return Resource.create({} if environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: service_name})


def traceparent_of(span: Span | None = None) -> str:
    """The W3C ``traceparent`` of ``span`` (None: the current one); empty if it has no trace id."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, None if span is None else trace.set_span_in_context(span))
    return carrier.get(TRACEPARENT, "")


def trace_id_of(traceparent: str) -> str:
    """The trace id (32 hex digits) in a ``traceparent``; empty if it holds none."""
    span_context = trace.get_current_span(context_of(traceparent)).get_span_context()
    return trace.format_trace_id(span_context.trace_id) if span_context.is_valid else ""


def context_of(traceparent: str) -> Context:
    """A context whose current span is the one that ``traceparent`` names; an empty one if it is malformed."""
    return _PROPAGATOR.extract({TRACEPARENT: traceparent}, Context())


@contextmanager
def in_context(traceparent: str) -> Iterator[None]:
    """Make the span that ``traceparent`` names the current one, without beginning one."""
    token = attach(context_of(traceparent))
    try:
        yield
    finally:
        detach(token)


@contextmanager
def span_from(
    tracer: Tracer, name: str, traceparent: str = "", *, kind: SpanKind = SpanKind.INTERNAL
) -> Iterator[Span]:
    """A current span that goes on the trace of ``traceparent``; a new trace if that is empty or malformed."""
    with tracer.start_as_current_span(name, context=context_of(traceparent), kind=kind) as span:
        yield span
