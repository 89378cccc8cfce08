"""The root span of a command's trace, where the standard ``OTEL_*`` variables name a collector."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import grpc
    from opentelemetry.trace import Tracer

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_TRACER: ContextVar[Tracer | None] = ContextVar("tracer", default=None)


@contextmanager
def command_span(command: str) -> Iterator[None]:
    """Run the body inside a span named ``command``; export it before returning, within a bounded time.

    Without a collector it costs nothing. One that does not answer delays a command by at most a second and is
    never mentioned: the command's own outcome is what its one line is about.
    """
    if not any(os.environ.get(name, "").strip() for name in _ENDPOINTS):
        yield
        return
    from opentelemetry.trace import Status, StatusCode

    from utilctl_common.telemetry import setup

    for name in ("opentelemetry", "utilctl_common.telemetry"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # A command's metrics would be gone with it; its trace is what joins the controller's.
    telemetry = setup("utilctl", environ={**os.environ, "OTEL_METRICS_EXPORTER": "none"})
    token = _TRACER.set(telemetry.tracer)
    try:
        # A refusal is an outcome: its status says all, a traceback in the trace would say nothing more.
        with telemetry.tracer.start_as_current_span(
            command, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except Exception as error:
                span.set_status(Status(StatusCode.ERROR, str(error)))
                raise
    finally:
        _TRACER.reset(token)
        telemetry.shutdown()


def traced_channel(channel: grpc.Channel) -> grpc.Channel:
    """``channel``, with the trace context of the running command sent along on its calls."""
    tracer = _TRACER.get()
    if tracer is None:
        return channel
    import grpc

    from utilctl_common.telemetry_grpc import TracingClientInterceptor

    return grpc.intercept_channel(channel, TracingClientInterceptor(tracer))
