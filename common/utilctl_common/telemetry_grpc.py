"""gRPC interceptors that carry the trace context of unary calls in their metadata and make a span for each.

Our own, not those of ``opentelemetry-instrumentation-grpc``, because theirs (0.66b2, a beta interface) give a
span to every stream, and an agent's stream lives for weeks, so that it would never be exported; record every
refusal as an exception with its traceback; and cost 120 ms of imports where ours cost nothing beyond grpc.
Streams pass through untouched here: on them the trace context travels inside the messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import grpc.aio
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from utilctl_common.telemetry import TRACEPARENT, context_of, traceparent_of

# mypy: disable-error-code="misc, type-arg"
# The published types of grpc's interceptors leave their parameters open; every use is behind these names.


class _CallDetails(NamedTuple):
    """What grpc asks of client call details; its own class cannot be built with other metadata."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: Any


def _attributes(method: str) -> dict[str, str]:
    service, _, name = method.lstrip("/").partition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}


def _close(span: Span, code: grpc.StatusCode | None, *, failed: bool) -> None:
    if code is not None:
        number: int = code.value[0]
        span.set_attribute("rpc.grpc.status_code", number)
    if failed:
        span.set_status(Status(StatusCode.ERROR, code.name if code else None))


class TracingClientInterceptor(grpc.UnaryUnaryClientInterceptor):
    """For blocking channels: ``grpc.intercept_channel(channel, TracingClientInterceptor(tracer))``."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def intercept_unary_unary(
        self,
        continuation: Callable[..., Any],
        client_call_details: Any,  # noqa: ANN401 - grpc's interface
        request: Any,  # noqa: ANN401 - any message type
    ) -> Any:  # noqa: ANN401 - grpc's call object
        """Send ``traceparent`` along and end the span when the call has ended."""
        method = str(client_call_details.method)
        with self._tracer.start_as_current_span(
            method.lstrip("/"), kind=SpanKind.CLIENT, attributes=_attributes(method), end_on_exit=False
        ) as span:
            metadata: list[tuple[str, str | bytes]] = list(client_call_details.metadata or ())
            if parent := traceparent_of(span):
                metadata.append((TRACEPARENT, parent))
            call = continuation(
                _CallDetails(
                    client_call_details.method,
                    client_call_details.timeout,
                    metadata,
                    client_call_details.credentials,
                    getattr(client_call_details, "wait_for_ready", None),
                    getattr(client_call_details, "compression", None),
                ),
                request,
            )

            def done(finished: Any) -> None:  # noqa: ANN401 - grpc's call object
                code = finished.code()
                _close(span, code, failed=code is not grpc.StatusCode.OK)
                span.end()

            call.add_done_callback(done)
            return call


class TracingServerInterceptor(grpc.aio.ServerInterceptor):
    """For asyncio servers: the handler of a unary call runs inside a span that goes on the caller's trace."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - a handler of any message types, or None for an unknown method
        """Wrap the handler of a unary call; leave the others as they are."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        inner: Any = handler.unary_unary
        method = str(handler_call_details.method)

        async def traced(request: Any, context: Any) -> Any:  # noqa: ANN401 - any message type
            metadata = context.invocation_metadata() or ()
            parent = next((str(value) for key, value in metadata if key == TRACEPARENT), "")
            with self._tracer.start_as_current_span(
                method.lstrip("/"),
                context=context_of(parent),
                kind=SpanKind.SERVER,
                attributes=_attributes(method),
                # A refusal reaches here as grpc's AbortError: its status says all, a traceback nothing.
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                try:
                    response = await inner(request, context)
                except BaseException:
                    _close(span, _code_of(context), failed=True)
                    raise
                _close(span, grpc.StatusCode.OK, failed=False)
                return response

        return grpc.unary_unary_rpc_method_handler(
            traced,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _code_of(context: Any) -> grpc.StatusCode | None:  # noqa: ANN401 - the servicer context has no common type
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return next((status for status in grpc.StatusCode if status.value[0] == code), None)


def current_trace_id() -> str:
    """The trace id (32 hex digits) of the current span; empty if there is none."""
    span_context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(span_context.trace_id) if span_context.is_valid else ""
