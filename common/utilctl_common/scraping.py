"""Metrics as Prometheus fetches them: http://HOST:PORT/metrics, in the text format or OpenMetrics."""

from __future__ import annotations

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import MetricReader
from prometheus_client import CollectorRegistry, start_http_server

from utilctl_common.errors import FailedError
from utilctl_common.quantities import parse_address


class _ServedReader(PrometheusMetricReader):
    """Stops serving when it is shut down."""

    def __init__(self, host: str, port: int) -> None:
        registry = CollectorRegistry(auto_describe=False)
        super().__init__(scope_info_enabled=False, registry=registry)
        self._http, _ = start_http_server(port, host, registry)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        super().shutdown(timeout_millis, **kwargs)


def served_reader(address: str) -> MetricReader:
    """A reader that serves what it reads at ``address``, HOST:PORT. Raises UsageError, FailedError if it is taken."""
    host, port = parse_address(address)
    try:
        return _ServedReader(host.strip("[]"), port)
    except OSError as error:
        raise FailedError(
            f"cannot serve metrics at {address}: {error.strerror}", hint="is another program there?"
        ) from None
