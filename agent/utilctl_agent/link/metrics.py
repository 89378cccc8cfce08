"""The agent's metrics; nothing is computed where nothing is exported.

Figures are those of the newest report. Whoever exports asks for them, in a thread of its own: nothing here reaches the
scheduler loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from opentelemetry.metrics import CallbackOptions, Observation

from utilctl_agent.link.codec import HostReport, SeeStatus
from utilctl_agent.orders import LoopReport
from utilctl_common.quantities import NS_PER_S
from utilctl_common.telemetry import Telemetry

MAX_SERIES: Final = 1_000
"""Services of a host that have series of their own; the others are left out."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How the agent stands with its controller. ``entitlements``: cores by SEE."""

    connected: bool
    leased: bool
    disabled: bool
    stale_targets: int
    connects: int
    entitlements: Mapping[str, float]
    pods: int
    pod_watch_restarts: int


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Instrument(Generic[T]):
    """One metric over values of type T: those of a service, of the loop, of a report or of the agent's standing."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    description: str
    value: Callable[[T], float]


OF_SERVICES: Final[tuple[Instrument[SeeStatus], ...]] = (
    Instrument(
        "utilctl_cpu_seconds_total", "counter", "s", "CPU time that a service used here",
        lambda see: see.consumed_total_ns / NS_PER_S,
    ),
    Instrument(
        "utilctl_paused_seconds_total", "counter", "s", "Time for which a service was held back although it could run",
        lambda see: see.paused_total_ns / NS_PER_S,
    ),
    Instrument(
        "utilctl_demand_cores", "gauge", "", "CPU that a service could use here now, in cores",
        lambda see: see.demand_cores,
    ),
    Instrument(
        "utilctl_consumption_cores", "gauge", "", "CPU that a service used here in the newest interval, in cores",
        lambda see: see.consumption_cores,
    ),
    Instrument(
        "utilctl_processes", "gauge", "", "Processes of a service here", lambda see: float(see.processes)
    ),
    Instrument(
        "utilctl_problem_ratio", "gauge", "", "1 while something keeps a service from being controlled here, else 0",
        lambda see: float(bool(see.problem)),
    ),
)  # fmt: skip

OF_REPORT: Final[tuple[Instrument[HostReport], ...]] = (
    Instrument(
        "utilctl_unclaimed_cores", "gauge", "", "CPU used here by processes of no service, in cores",
        lambda report: report.unclaimed_cores,
    ),
    Instrument(
        "utilctl_relative_error_ratio", "gauge", "", "RMS relative error of a cycle, mean over the newest interval",
        lambda report: report.rms_relative_error_ratio,
    ),
    Instrument(
        "utilctl_waiting_pods", "gauge", "", "Pods of this node whose label names a service that has no share",
        lambda report: float(sum(report.waiting.values())),
    ),
    Instrument(
        "utilctl_capacity_cores", "gauge", "", "CPU that is shared out here, in cores",
        lambda report: report.capacity_cores,
    ),
)  # fmt: skip

OF_LOOP: Final[tuple[Instrument[LoopReport], ...]] = (
    Instrument(
        "utilctl_overhead_seconds_total", "counter", "s", "CPU time that the scheduler loop used",
        lambda loop: loop.overhead_ns / NS_PER_S,
    ),
    Instrument("utilctl_cycles_total", "counter", "", "Cycles that ended", lambda loop: float(loop.cycles)),
    Instrument("utilctl_wakeups_total", "counter", "", "Wake-ups of the loop", lambda loop: float(loop.wakeups)),
    Instrument(
        "utilctl_late_seconds_total", "counter", "s", "By how much the loop's wake-ups came too late, added up",
        lambda loop: loop.late_sum_ns / NS_PER_S,
    ),
    Instrument(
        "utilctl_cycle_stretch_ratio", "gauge", "", "How many times longer than asked for cycles are now",
        lambda loop: loop.cycle_stretch,
    ),
    Instrument(
        "utilctl_foreign_writes_total", "counter", "", "Times that somebody else undid a pause or wrote a weight",
        lambda loop: float(loop.foreign_writes),
    ),
    Instrument(
        "utilctl_foreign_stops_total", "counter", "", "Services found stopped by somebody else",
        lambda loop: float(loop.foreign_stops),
    ),
    Instrument(
        "utilctl_unfinished_pauses_total", "counter", "", "Pauses that did not take effect and were undone",
        lambda loop: float(loop.unfinished_pauses),
    ),
)  # fmt: skip

OF_STANDING: Final[tuple[Instrument[Standing], ...]] = (
    Instrument(
        "utilctl_connected_ratio", "gauge", "", "1 while a controller is connected, otherwise 0",
        lambda standing: float(standing.connected),
    ),
    Instrument(
        "utilctl_leased_ratio", "gauge", "", "1 while targets hold, 0 while static shares do",
        lambda standing: float(standing.leased),
    ),
    Instrument(
        "utilctl_disabled_ratio", "gauge", "", "1 while an operator has disabled shares, otherwise 0",
        lambda standing: float(standing.disabled),
    ),
    Instrument(
        "utilctl_stale_targets_total", "counter", "", "Sets of targets refused because a newer one holds",
        lambda standing: float(standing.stale_targets),
    ),
    Instrument(
        "utilctl_controller_connects_total", "counter", "", "Sessions opened with a controller",
        lambda standing: float(standing.connects),
    ),
    Instrument(
        "utilctl_pods", "gauge", "", "Pods of this node that Kubernetes has told of",
        lambda standing: float(standing.pods),
    ),
    Instrument(
        "utilctl_pod_watch_restarts_total", "counter", "", "Times that the watch of pods ended and all were listed",
        lambda standing: float(standing.pod_watch_restarts),
    ),
)  # fmt: skip

ENTITLEMENT: Final = "utilctl_entitlement_cores"
"""Of services, from the targets."""


class AgentMetrics:
    """Observable instruments over the newest report."""

    def __init__(self, telemetry: Telemetry, host: str, standing: Callable[[], Standing]) -> None:
        """``standing`` is asked with every export, from another thread."""
        self._host = {"host": host}
        self._loop: LoopReport | None = None
        self._report: HostReport | None = None
        self._standing = standing
        if telemetry.metrics_on:
            self._register(telemetry)

    def update(self, loop: LoopReport, report: HostReport) -> None:
        """Take the newest figures."""
        self._loop, self._report = loop, report

    def _register(self, telemetry: Telemetry) -> None:
        for of_service in OF_SERVICES:
            _create(telemetry, of_service, self._by_service(of_service.value))
        for of_report in OF_REPORT:
            _create(telemetry, of_report, self._once(of_report.value, lambda: self._report))
        for of_loop in OF_LOOP:
            _create(telemetry, of_loop, self._once(of_loop.value, lambda: self._loop))
        for of_standing in OF_STANDING:
            _create(telemetry, of_standing, self._once(of_standing.value, self._standing))
        telemetry.meter.create_observable_gauge(
            ENTITLEMENT,
            [self._entitlements],
            description="CPU that the newest decision grants here, in cores",
        )

    def _sees(self) -> tuple[SeeStatus, ...]:
        return self._report.sees[:MAX_SERIES] if self._report is not None else ()

    def _by_service(self, value: Callable[[SeeStatus], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value(see), {**self._host, "service": see.see}) for see in self._sees()]

        return observe

    def _entitlements(self, _options: CallbackOptions) -> Iterable[Observation]:
        granted = self._standing().entitlements
        return [
            Observation(granted[see.see], {**self._host, "service": see.see})
            for see in self._sees()
            if see.see in granted
        ]

    def _once(
        self, value: Callable[[T], float], source: Callable[[], T | None]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            newest = source()
            return [Observation(value(newest), self._host)] if newest is not None else []

        return observe


def _create(
    telemetry: Telemetry, instrument: Instrument[T], observe: Callable[[CallbackOptions], Iterable[Observation]]
) -> None:
    create = (
        telemetry.meter.create_observable_counter
        if instrument.kind == "counter"
        else telemetry.meter.create_observable_gauge
    )
    create(instrument.name, [observe], instrument.unit, instrument.description)
