"""The agent's metrics; nothing is computed where nothing is exported."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Observation

from utilctl_agent.link.codec import HostReport
from utilctl_agent.orders import LoopReport
from utilctl_common.quantities import NS_PER_S
from utilctl_common.telemetry import Telemetry


class AgentMetrics:
    """Observable instruments over the newest report."""

    def __init__(self, telemetry: Telemetry, host: str) -> None:
        self._host = {"host": host}
        self._loop: LoopReport | None = None
        self._report: HostReport | None = None
        self.stale_targets = 0
        self.controller_connects = 0
        if telemetry.metrics_on:
            self._register(telemetry)

    def update(self, loop: LoopReport, report: HostReport) -> None:
        """Take the newest figures."""
        self._loop, self._report = loop, report

    def _register(self, telemetry: Telemetry) -> None:
        meter = telemetry.meter
        meter.create_observable_counter(
            "utilctl_cpu_seconds_total", [self._per_see(lambda s: s.consumed_total_ns / NS_PER_S)], "s", "CPU time used"
        )
        meter.create_observable_counter(
            "utilctl_paused_seconds_total", [self._per_see(lambda s: s.paused_total_ns / NS_PER_S)], "s", "Time paused"
        )
        meter.create_observable_gauge(
            "utilctl_demand_cores", [self._per_see(lambda s: s.demand_cores)], "{cpu}", "CPU wanted"
        )
        meter.create_observable_gauge(
            "utilctl_unclaimed_cores", [self._of_report(lambda r: r.unclaimed_cores)], "{cpu}", "CPU used by no service"
        )
        meter.create_observable_gauge(
            "utilctl_relative_error_ratio", [self._of_report(lambda r: r.rms_relative_error_ratio)], "1", "Cycle error"
        )
        meter.create_observable_counter(
            "utilctl_overhead_seconds_total", [self._of_loop(lambda x: x.overhead_ns / NS_PER_S)], "s", "Loop CPU time"
        )
        meter.create_observable_counter(
            "utilctl_wakeups_total", [self._of_loop(lambda x: float(x.wakeups))], "{wakeup}", "Loop wake-ups"
        )
        meter.create_observable_counter(
            "utilctl_late_seconds_total", [self._of_loop(lambda x: x.late_sum_ns / NS_PER_S)], "s", "Wake-up lateness"
        )
        meter.create_observable_counter(
            "utilctl_foreign_writes_total",
            [self._of_loop(lambda x: float(x.foreign_writes))],
            "1",
            "Times that somebody else undid a pause or wrote a weight",
        )
        meter.create_observable_counter(
            "utilctl_foreign_stops_total",
            [self._of_loop(lambda x: float(x.foreign_stops))],
            "1",
            "Services found stopped by somebody else",
        )
        meter.create_observable_counter(
            "utilctl_unfinished_pauses_total",
            [self._of_loop(lambda x: float(x.unfinished_pauses))],
            "1",
            "Pauses that did not take effect and were undone",
        )
        meter.create_observable_counter(
            "utilctl_stale_targets_total", [self._constant(lambda: float(self.stale_targets))], "1", "Old sets refused"
        )
        meter.create_observable_counter(
            "utilctl_controller_connects_total",
            [self._constant(lambda: float(self.controller_connects))],
            "1",
            "Sessions opened",
        )

    def _per_see(self, value: Callable[..., float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            sees = self._report.sees if self._report is not None else ()
            return [Observation(value(see), {**self._host, "service": see.see}) for see in sees]

        return observe

    def _of_report(self, value: Callable[[HostReport], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value(self._report), self._host)] if self._report is not None else []

        return observe

    def _of_loop(self, value: Callable[[LoopReport], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value(self._loop), self._host)] if self._loop is not None else []

        return observe

    def _constant(self, value: Callable[[], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value(), self._host)]

        return observe
