"""What operators see: services and hosts as they are now, put together from policies, reports and the
decision."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from utilctl_controller.fleet import HostState
from utilctl_controller.rebalance import Rebalancer
from utilctl_controller.shares import lineage
from utilctl_controller.store.port import Record


@dataclass(slots=True)
class HostShareView:
    """One SEE on one host. A parent's figures include those of the SEEs below it, except ``weight``, its
    own."""

    host: str
    see: str
    weight: float = 0.0
    entitlement_cores: float = 0.0
    demand_cores: float = 0.0
    consumption_cores: float = 0.0
    consumed_total_ns: int = 0
    paused_total_ns: int = 0
    processes: int = 0
    problem: str = ""


@dataclass(slots=True)
class ServiceView:
    """One SEE over the fleet: its policy and the sums over ``per_host``, which is sorted by host."""

    record: Record
    per_host: list[HostShareView] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The SEE."""
        return self.record.policy.name

    @property
    def entitlement_cores(self) -> float:
        """What the newest decision grants, in cores."""
        return sum(row.entitlement_cores for row in self.per_host)

    @property
    def demand_cores(self) -> float:
        """What it could use now, in cores."""
        return sum(row.demand_cores for row in self.per_host)

    @property
    def consumption_cores(self) -> float:
        """What it used in the newest report interval, in cores."""
        return sum(row.consumption_cores for row in self.per_host)

    @property
    def consumed_total_ns(self) -> int:
        """CPU time since the agents started."""
        return sum(row.consumed_total_ns for row in self.per_host)

    @property
    def hosts(self) -> int:
        """Hosts on which it has processes."""
        return sum(row.processes > 0 for row in self.per_host)


@dataclass(frozen=True, slots=True)
class HostView:
    """One host. ``silent_ns`` is the time since its newest report, None if there was none; ``waiting`` are pods by the
    service without a share that they name."""

    state: HostState
    consumption_cores: float
    sees: int
    silent_ns: int | None
    waiting: Mapping[str, int]


@dataclass(slots=True)
class WaitingView:
    """A service that has no share, and the pods by host that name it."""

    see: str
    by_host: dict[str, int] = field(default_factory=dict)

    @property
    def pods(self) -> int:
        """On all hosts."""
        return sum(self.by_host.values())

    def most_on(self, hosts: int) -> list[tuple[str, int]]:
        """Hosts with most of them, so many at most."""
        return sorted(self.by_host.items(), key=lambda entry: (-entry[1], entry[0]))[:hosts]


def service_views(
    rebalancer: Rebalancer, records: Mapping[str, Record], now_ns: int, *, everywhere: bool = False
) -> dict[str, ServiceView]:
    """Every SEE by name. A host stands in a view where the SEE runs or is granted something (``everywhere``:
    always).

    A host that no longer counts contributes its totals but no rates.
    """
    views = {name: ServiceView(record) for name, record in sorted(records.items())}
    granted_by_host = rebalancer.decision.by_host if rebalancer.decision else {}
    shown_in: dict[str, tuple[str, ...]] = {}  # by SEE, the views that it counts in
    for host_name, host in sorted(rebalancer.hosts.items()):
        live = rebalancer.counts(host, now_ns)
        granted = granted_by_host.get(host_name, {}) if live else {}
        present = {*host.readings, *granted}
        if everywhere and host.pushed is not None:
            present.update(target.policy.name for target in host.pushed.targets)
        for see in present.difference(shown_in):
            shown_in[see] = tuple(node for node in lineage(see) if node in views)
        shown = sorted(see for see in present if shown_in[see])
        if not shown:
            continue
        demand = host.demand.cores() if live else {}
        weights = {t.policy.name: t.weight for t in host.pushed.targets} if host.pushed else {}
        rows: dict[str, HostShareView] = {}
        for see in shown:
            reading = host.readings.get(see)
            for node in shown_in[see]:
                row = rows.get(node)
                if row is None:
                    row = rows[node] = HostShareView(host_name, node, weights.get(node, 0.0))
                row.entitlement_cores += granted.get(see, 0.0)
                row.demand_cores += demand.get(see, 0.0)
                if reading is not None:
                    row.consumption_cores += reading.consumption_cores if live else 0.0
                    row.consumed_total_ns += reading.consumed_total_ns
                    row.paused_total_ns += reading.paused_total_ns
                    row.processes += reading.processes if live else 0
                    row.problem = row.problem or reading.problem
        for node, row in rows.items():
            views[node].per_host.append(row)
    return views


def host_views(rebalancer: Rebalancer, now_ns: int) -> list[HostView]:
    """Every host that has not been forgotten, by name."""
    views: list[HostView] = []
    for _, host in sorted(rebalancer.hosts.items()):
        live = rebalancer.counts(host, now_ns)
        used = sum(entry.consumption_cores for entry in host.readings.values()) if live else 0.0
        running = sum(entry.processes > 0 for entry in host.readings.values()) if live else 0
        silent_ns = None if host.reported_at_ns is None else now_ns - host.reported_at_ns
        waiting = _waiting(host, rebalancer.policies) if live else {}
        views.append(HostView(host, used, running, silent_ns, waiting))
    return views


def waiting_views(rebalancer: Rebalancer, now_ns: int) -> list[WaitingView]:
    """Services that pods of hosts which count wait for, by name."""
    views: dict[str, WaitingView] = {}
    for name, host in sorted(rebalancer.hosts.items()):
        if rebalancer.counts(host, now_ns):
            for see, pods in _waiting(host, rebalancer.policies).items():
                views.setdefault(see, WaitingView(see)).by_host[name] = pods
    return [views[see] for see in sorted(views)]


def _waiting(host: HostState, policies: Collection[str]) -> dict[str, int]:
    """Without those who got a share since the host reported."""
    return {see: pods for see, pods in host.reading.waiting if see not in policies} if host.reading else {}
