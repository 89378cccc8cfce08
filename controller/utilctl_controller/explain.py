"""Why a service gets what it gets, in figures and in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from utilctl_common.quantities import NS_PER_S
from utilctl_controller.rebalance import Rebalancer
from utilctl_controller.status import ServiceView

NOTICEABLE_CORES: Final = 0.005
"""Differences below this many cores are not worth a word: they round away in two decimals."""

DISABLED: Final = "shares are disabled on the whole fleet: nobody is held back"
"""Said wherever it would otherwise look as if shares held."""

_LISTED: Final = 3
"""Hosts named in a sentence before the rest is only counted."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """``binding_constraint`` is what holds the SEE at its entitlement: ``demand``, ``cap``, ``floor``,
    ``capacity of HOSTS``, ``hold``, ``disabled``, or ``nothing yet``. Lenders want less than their static part of the
    hosts where it runs, borrowers get more than theirs."""

    binding_constraint: str
    lenders: tuple[str, ...]
    borrowers: tuple[str, ...]
    sentence: str


def explain(rebalancer: Rebalancer, service: ServiceView, now_ns: int) -> Explanation:
    """Explain ``service`` (all its hosts, or those that its view was narrowed to) by the newest decision."""
    if rebalancer.disabled:
        sentence = f"{DISABLED}, {service.name} neither; utilctl enable lets them hold again."
        return Explanation("disabled", (), (), sentence)
    policy = rebalancer.policies.get(service.name)
    if policy is not None and policy.hold is not None:
        until = datetime.fromtimestamp(policy.hold.until_unix_ns // NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S")
        sentence = (
            f"{service.name} is held at {service.entitlement_cores:.2f} cores, {_places(rebalancer, service)}, until "
            f"{until} UTC, whatever it or others want; utilctl release {service.name} ends that."
        )
        return Explanation("hold", (), (), sentence)
    decision = rebalancer.decision
    granted = decision.sees.get(service.name) if decision else None
    if rebalancer.learning(now_ns) or decision is None or granted is None:
        return Explanation("nothing yet", (), (), f"{service.name} {_undecided(rebalancer, now_ns)}.")
    lenders, borrowers = _lending(rebalancer, service)
    return Explanation(granted.bottleneck, lenders, borrowers, _sentence(rebalancer, service, granted.bottleneck))


def _undecided(rebalancer: Rebalancer, now_ns: int) -> str:
    if rebalancer.learning(now_ns):
        return "has static shares on every host: the controller has just started and is waiting for reports"
    return "is new: the next decision will count it"


def _lending(rebalancer: Rebalancer, service: ServiceView) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who lends to whom on the hosts of ``service``, itself apart."""
    assert rebalancer.decision is not None
    static: dict[str, float] = {}
    wanted: dict[str, float] = {}
    given: dict[str, float] = {}
    for row in service.per_host:
        host = rebalancer.hosts[row.host]
        granted = rebalancer.decision.by_host.get(row.host, {})
        demand = host.demand.cores()
        running = {see for see, entry in host.readings.items() if entry.processes > 0} | set(demand)
        fractions = rebalancer.tree.fractions(running)
        for see in running:
            static[see] = static.get(see, 0.0) + fractions.get(see, 0.0) * host.available_cores
            wanted[see] = wanted.get(see, 0.0) + demand.get(see, 0.0)
            given[see] = given.get(see, 0.0) + granted.get(see, 0.0)
    others = sorted(see for see in static if see != service.name)
    return (
        tuple(see for see in others if wanted[see] < static[see] - NOTICEABLE_CORES),
        tuple(see for see in others if given[see] > static[see] + NOTICEABLE_CORES),
    )


def _sentence(rebalancer: Rebalancer, service: ServiceView, bottleneck: str) -> str:
    name, wants, gets = service.name, service.demand_cores, service.entitlement_cores
    policy = service.record.policy
    if wants < NOTICEABLE_CORES:
        if not service.hosts:
            return f"{name} runs on no host that reports now; it can use its share wherever it starts."
        return f"{name} wants no CPU now; it can use its share the moment it does."
    start = f"{name} gets {gets:.2f} of {wants:.2f} cores it wants, {_places(rebalancer, service)}"
    if gets > wants - NOTICEABLE_CORES:
        return f"{start}; it can use no more."
    if bottleneck == "cap" and policy.cap_cores is not None:
        return f"{start}; more is impossible because its cap of {policy.cap_cores:g} cores is reached."
    if bottleneck.startswith("cap of "):
        return f"{start}; more is impossible because the {bottleneck} is reached."
    if bottleneck == "floor":
        return f"{start}; that is its floor of {policy.floor_cores:g} cores, its share alone would give it less."
    if _has_all(rebalancer, service):
        return f"{start}; more is impossible because nothing else is left where it runs."
    if bottleneck.startswith("capacity of "):
        hosts = bottleneck.removeprefix("capacity of ")
        full = f"{hosts} {_are(hosts)} full"
        return f"{start}; more is impossible because {full} and {policy.share:g} is its share."
    return f"{start}; more is impossible because of {bottleneck}."


def _are(hosts: str) -> str:
    return "are" if "," in hosts else "is"


def _places(rebalancer: Rebalancer, service: ServiceView) -> str:
    rows = [row for row in service.per_host if row.entitlement_cores >= NOTICEABLE_CORES]
    if not rows:
        return "on no host"
    if len(rows) == 1:
        row = rows[0]
        whole = row.entitlement_cores > rebalancer.hosts[row.host].available_cores - NOTICEABLE_CORES
        return f"all of {row.host}" if whole else f"all on {row.host}"
    rows.sort(key=lambda row: (-row.entitlement_cores, row.host))
    named = ", ".join(f"{row.entitlement_cores:.2f} on {row.host}" for row in rows[:_LISTED])
    rest = len(rows) - _LISTED
    return named + (f" and the rest on {rest} more host{'s' if rest > 1 else ''}" if rest > 0 else "")


def _has_all(rebalancer: Rebalancer, service: ServiceView) -> bool:
    """Whether every host where the service wants more is all its own already."""
    short = [row for row in service.per_host if row.entitlement_cores < row.demand_cores - NOTICEABLE_CORES]
    return bool(short) and all(
        row.entitlement_cores > rebalancer.hosts[row.host].available_cores - NOTICEABLE_CORES for row in short
    )
