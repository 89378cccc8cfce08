"""``utilctl predict --live``: the model on what the fleet measures now.

An agent sees CPU time, not requests. So the answer is for one CPU-second of work of each service, as if services were
requests that come at random; on each host the weights of the targets are its shares. What processes of no service use
slows all cores of their host alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from utilctl_cli.documents import (
    HostDocument,
    LivePlanDocument,
    LivePredictedHostDocument,
    LivePredictedWorkloadDocument,
    LivePredictionDocument,
    ServiceDocument,
)
from utilctl_common.names import parent_of
from utilctl_common.responsetime.model import Machine, Node, Transactions
from utilctl_common.responsetime.predict import predict

FULL: Final = 0.99
"""Part of a host in use from which on it counts as full: a measured use of all of it tells nothing about queues."""

SMALLEST_WEIGHT: Final = 0.001
"""Smallest weight, as a part of the host, as controllers set it."""


@dataclass(slots=True)
class _Use:
    """A service's own processes on one host."""

    used_cores: float
    weight: float
    weight_then: float


@dataclass(slots=True)
class _Host:
    cores: int
    speed: float
    """Of a core, next to unclaimed use."""
    uses: dict[str, _Use] = field(default_factory=dict)

    def is_full(self) -> bool:
        """Whether nothing can be said."""
        return sum(use.used_cores for use in self.uses.values()) >= FULL * self.cores * self.speed

    def times_s(self, weights: Mapping[str, float]) -> dict[str, float | None]:
        """Response time of one CPU-second of work, by service."""
        nodes = tuple(
            Node(see, weights[see], load=Transactions(use.used_cores / self.speed, 1.0 / self.speed))
            for see, use in self.uses.items()
        )
        predicted = predict(Machine(self.cores, "guarantee", nodes))
        return {one.name: one.response_time_s for one in predicted.workloads}


def live_prediction(
    services: Sequence[ServiceDocument], hosts: Sequence[HostDocument], plan: LivePlanDocument | None
) -> LivePredictionDocument:
    """What is predicted now, and with the changes of ``plan`` (None: the same).

    Services below others are taken by themselves, as agents do.
    """
    fleet = _fleet(services, hosts, plan)
    notes = [
        f"{name} is full: what is queued there cannot be told from what it uses, so it is left out"
        for name, host in fleet.items()
        if host.is_full()
    ]
    rows: dict[str, list[LivePredictedHostDocument]] = {service["see"]: [] for service in services}
    for name, host in fleet.items():
        if host.is_full() or not host.uses:
            continue
        now = host.times_s({see: use.weight for see, use in host.uses.items()})
        then = host.times_s({see: use.weight_then for see, use in host.uses.items()})
        for see, use in host.uses.items():
            rows[see].append(
                {
                    "host": name,
                    "utilization_cores": use.used_cores,
                    "response_time_s": then[see],
                    "now_response_time_s": now[see],
                }
            )
    notes += [
        f"{service['see']} has a cap, which the model leaves out"
        for service in services
        if service["cap_cores"] is not None and rows[service["see"]]
    ]
    if plan is not None:
        notes += plan["warnings"]
    return {
        "workloads": [_workload(see, per_host) for see, per_host in rows.items() if per_host],
        "mean_response_time_s": _mean((row for per_host in rows.values() for row in per_host), "response_time_s"),
        "notes": notes,
    }


def _fleet(
    services: Sequence[ServiceDocument], hosts: Sequence[HostDocument], plan: LivePlanDocument | None
) -> dict[str, _Host]:
    """Hosts that are connected, with what each service uses by itself. A parent's figures hold its children's."""
    fleet: dict[str, _Host] = {}
    for host in hosts:
        cores = max(1, round(host["capacity_cores"]))
        speed = (host["capacity_cores"] - host["unclaimed_cores"]) / cores
        if host["connected"]:
            fleet[host["host"]] = _Host(cores, max(speed, SMALLEST_WEIGHT))
    used: dict[tuple[str, str], float] = {}
    due: dict[tuple[str, str], float] = {}
    weights: dict[tuple[str, str], float] = {}
    for service in services:
        for share in service["per_host"]:
            key = (service["see"], share["host"])
            used[key], due[key] = share["consumption_cores"], share["entitlement_cores"]
            weights[key] = share["weight"]
    then = dict(due)
    for planned in plan["services"] if plan is not None else ():
        for row in planned["per_host"]:
            then[planned["see"], row["host"]] = row["after_cores"]
    own_used, own_due, own_then = _own(used), _own(due), _own(then)
    for (see, name), used_cores in own_used.items():
        host_ = fleet.get(name)
        if host_ is None or used_cores <= 0:
            continue
        smallest = SMALLEST_WEIGHT * host_.cores
        weight = max(weights.get((see, name), 0.0), smallest)
        granted, later = own_due.get((see, name), 0.0), own_then.get((see, name), 0.0)
        # Weights are entitlements where there is a demand; the rest of the rule is the controller's.
        moved = weight if abs(later - granted) < smallest else max(later, smallest)
        host_.uses[see] = _Use(used_cores, weight, moved)
    return fleet


def _own(figures: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Figures of SEEs without those of the SEEs right below them."""
    own = dict(figures)
    for (see, host), value in figures.items():
        parent = parent_of(see)
        if parent is not None and (parent, host) in own:
            own[parent, host] -= value
    return {key: max(0.0, value) if value > SMALLEST_WEIGHT else 0.0 for key, value in own.items()}


def _workload(see: str, per_host: Sequence[LivePredictedHostDocument]) -> LivePredictedWorkloadDocument:
    time_s = _mean(per_host, "response_time_s")
    return {
        "name": see,
        "response_time_s": time_s,
        "slowdown": time_s,
        "now_response_time_s": _mean(per_host, "now_response_time_s"),
        "utilization_cores": sum(row["utilization_cores"] for row in per_host),
        "per_host": list(per_host),
    }


def _mean(rows: Iterable[LivePredictedHostDocument], key: str) -> float | None:
    """Weighted by the CPU used."""
    pairs = [
        (row["utilization_cores"], row["now_response_time_s"] if key.startswith("now") else row["response_time_s"])
        for row in rows
    ]
    known = [(used, time_s) for used, time_s in pairs if time_s is not None]
    total = sum(used for used, _ in known)
    return sum(used * time_s for used, time_s in known) / total if total else None
