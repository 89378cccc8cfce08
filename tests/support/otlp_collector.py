"""An OTLP collector for traces on an ephemeral loopback port; it keeps every span that it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent import futures
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span; ids in hex, an empty parent means a root."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_unix_ns: int
    end_unix_ns: int
    attributes: dict[str, Any]


def enforced_on(spans: Iterable[ReceivedSpan], name: str) -> set[str]:
    """Hosts with a span of that name ("apply targets", "first enforced cycle") that no later decision overtook."""
    return {
        span.attributes["utilctl.host"]
        for span in spans
        if span.service == "utilctl-agent" and span.name == name and "utilctl.superseded" not in span.attributes
    }


class OtlpCollector(trace_service_pb2_grpc.TraceServiceServicer):
    """Use it in ``with``; ``environment`` makes programs export to it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[ReceivedSpan] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # published without types
        register(self, self._server)
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def environment(self) -> dict[str, str]:
        """The standard variables that name this collector."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_METRICS_EXPORTER": "none",
        }

    def __enter__(self) -> OtlpCollector:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name for it
        """Take spans in."""
        del context
        received = [
            ReceivedSpan(
                service=next((a.value.string_value for a in group.resource.attributes if a.key == "service.name"), ""),
                name=span.name,
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                start_unix_ns=span.start_time_unix_nano,
                end_unix_ns=span.end_time_unix_nano,
                attributes={a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes},
            )
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += received
        return trace_service_pb2.ExportTraceServiceResponse()

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of one trace that have arrived, by start."""
        with self._lock:
            found = [span for span in self._spans if span.trace_id == trace_id]
        return sorted(found, key=lambda span: span.start_unix_ns)
