"""The controller's metrics. Names and units as Prometheus has them; attributes are bounded by the
settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from opentelemetry.metrics import CallbackOptions, Observation

from utilctl_common.telemetry import Telemetry
from utilctl_controller.reports import ReportProblem


@dataclass(frozen=True, slots=True)
class Gauge:
    """One reading for export: ``name`` is one of GAUGES, ``attributes`` a service or host, or nothing."""

    name: str
    value: float
    attributes: tuple[tuple[str, str], ...] = ()


GAUGES = {
    "utilctl_service_entitlement_cores": "CPU that the newest decision grants to a service, in cores",
    "utilctl_service_demand_cores": "CPU that a service could use now, in cores",
    "utilctl_service_consumption_cores": "CPU that a service used in the newest interval, in cores",
    "utilctl_host_capacity_cores": "CPU that a host has, in cores",
    "utilctl_host_unclaimed_cores": "CPU used on a host by processes of no service, in cores",
    "utilctl_host_relative_error_ratio": "RMS relative error of a host's scheduler loop",
    "utilctl_host_overhead_ratio": "CPU that a host's agent uses, as a part of one core",
    "utilctl_controller_agents": "Agents connected",
    "utilctl_controller_leading_ratio": "1 while this controller leads, 0 while it follows another one",
    "utilctl_controller_store_available_ratio": "1 while the policy store answers, otherwise 0",
    "utilctl_controller_enabled_ratio": "1 while shares hold, 0 while an operator has disabled them on the fleet",
    "utilctl_service_share": "Configured share of a service",
    "utilctl_controller_hosts_behind": "Connected hosts that do not enforce yet what was sent to them last",
    "utilctl_controller_waiting_pods": "Pods whose label names a service that has no share",
    "utilctl_controller_held_services": "Services whose targets are held",
}
"""Every gauge, and what it is."""


BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of what histograms tell apart; the library's own are meant for milliseconds."""


class ControllerMetrics:
    """Counters, which cost nothing where nothing is exported, and gauges, read from the newest snapshot."""

    def __init__(self, telemetry: Telemetry) -> None:
        meter = telemetry.meter
        self.enabled = telemetry.metrics_on
        self._snapshot: tuple[Gauge, ...] = ()
        self._reports = meter.create_counter("utilctl_controller_reports_total", description="Reports received")
        self._problems = meter.create_counter(
            "utilctl_controller_report_problems_total", description="Values in reports refused or bounded"
        )
        self._refused = meter.create_counter(
            "utilctl_controller_sessions_refused_total", description="Agent connections refused"
        )
        self._pushes = meter.create_counter("utilctl_controller_pushes_total", description="Target sets sent to agents")
        self._malformed = meter.create_counter(
            "utilctl_controller_malformed_messages_total", description="Messages received that are none of this program"
        )
        self._elections = meter.create_counter(
            "utilctl_controller_elections_total", description="Times that this controller began to lead"
        )
        self._redirected = meter.create_counter(
            "utilctl_controller_redirected_total", description="Calls sent to the leader, or to nobody, by a follower"
        )
        self._store_seconds = meter.create_histogram(
            "utilctl_controller_store_seconds",
            unit="s",
            description="Time that a call of the policy store took",
            explicit_bucket_boundaries_advisory=BUCKETS_S,
        )
        self._failures = meter.create_counter(
            "utilctl_controller_decision_failures_total", description="Decisions that failed"
        )
        self._seconds = meter.create_histogram(
            "utilctl_controller_decision_seconds",
            unit="s",
            description="Time that a decision took",
            explicit_bucket_boundaries_advisory=BUCKETS_S,
        )
        if self.enabled:
            for name, description in GAUGES.items():
                meter.create_observable_gauge(name, [self._reader(name)], description=description)

    def reported(self, problems: Iterable[ReportProblem]) -> None:
        """A report arrived, with these problems."""
        self._reports.add(1)
        for problem in problems:
            self._problems.add(1, {"reason": problem.reason})

    def refused(self, reason: str) -> None:
        """An agent's connection was refused; ``reason`` is one of a few words."""
        self._refused.add(1, {"reason": reason})

    def pushed(self, *, renewal: bool) -> None:
        """A target set was handed to a session."""
        self._pushes.add(1, {"kind": "renewal" if renewal else "change"})

    def decided(self, seconds: float) -> None:
        """A decision took ``seconds``."""
        self._seconds.record(seconds)

    def malformed(self) -> None:
        """Bytes arrived that are no message."""
        self._malformed.add(1)

    def elected(self) -> None:
        """This controller leads from now on."""
        self._elections.add(1)

    def redirected(self, *, known: bool) -> None:
        """A call was refused because another controller leads, or, if that is not ``known``, nobody does."""
        self._redirected.add(1, {"leader": "known" if known else "unknown"})

    def store_answered(self, call: str, outcome: str, seconds: float) -> None:
        """A call of the policy store ended; ``outcome`` is one of a few words."""
        self._store_seconds.record(seconds, {"call": call, "outcome": outcome})

    def failed(self) -> None:
        """A decision failed."""
        self._failures.add(1)

    def publish(self, gauges: tuple[Gauge, ...]) -> None:
        """What the next export shows. Any thread may export meanwhile; it sees the old or the new, never a
        mix."""
        self._snapshot = gauges

    def _reader(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(g.value, dict(g.attributes)) for g in self._snapshot if g.name == name]

        return read
