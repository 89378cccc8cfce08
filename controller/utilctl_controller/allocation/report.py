"""From ticks on arcs to the allocation as people and the controller read it: totals, bottlenecks, ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from utilctl_controller.allocation.instance import Instance
from utilctl_controller.allocation.model import Allocation, AllocationProblem, SeeAllocation

ROUNDING: Final = 1e-9
"""Relative difference, and cores, below which two amounts count as equal: far below what a host can enforce."""

_NAMED_HOSTS: Final = 8
"""Hosts named in a bottleneck before it says how many more there are. Arbitrary: one line on a screen."""


def close(left: float, right: float) -> bool:
    """Equal but for rounding."""
    return abs(left - right) <= ROUNDING * max(1.0, abs(left), abs(right))


def describe(problem: AllocationProblem, instance: Instance, cores: Sequence[float], notes: list[str]) -> Allocation:
    """The allocation that grants ``cores`` on every arc."""
    nodes = len(instance.parent)
    own: list[dict[str, float]] = [{} for _ in range(nodes)]
    for node in range(nodes):
        first, last = instance.arc_start[node], instance.arc_start[node + 1]
        if first < last:
            own[node] = {
                instance.hosts[host]: amount
                for host, amount in zip(instance.arc_host[first:last], cores[first:last], strict=True)
            }
    by_host = list(own)
    own_of = list(own)
    total = [0.0] * nodes
    wanted = [0.0] * nodes
    claims = {see.name: see for see in problem.sees}
    for node in range(nodes - 1, -1, -1):
        children = instance.children[node]
        claim = claims.get(instance.path[node])
        if children:
            merged: dict[str, float] = {}
            for child in children:
                for host, amount in by_host[child].items():
                    merged[host] = merged.get(host, 0.0) + amount
                if instance.path[child] == instance.path[node]:
                    own_of[node] = own[child]
            by_host[node] = dict(sorted(merged.items()))
            wanted[node] = sum(wanted[child] for child in children)
        elif claim is not None:
            wanted[node] = sum(claim.demand_cores.values())
        total[node] = sum(by_host[node].values())
    binding = [_binding(instance, node, total[node], wanted[node]) for node in range(nodes)]
    full = _full_hosts(instance, cores)
    sees = [
        SeeAllocation(
            instance.path[node], total[node], by_host[node],
            binding[node] or _capacity(instance, node, binding, cores, full), own_of[node],
        )
        for node in range(nodes)
        if instance.listed[node]
    ]  # fmt: skip
    sees.sort(key=lambda see: see.name)
    ratio = _min_max_ratio(instance, total, binding)
    return Allocation(problem.mode, tuple(sees), ratio, tuple(notes))


def _binding(instance: Instance, node: int, total: float, wanted: float) -> str:
    """``demand``, ``cap`` or ``floor`` where that is what fixes ``total``, else an empty string."""
    if total > wanted or close(total, wanted):
        return "demand"
    cap, floor = instance.cap[node], instance.floor[node]
    if cap is not None and close(total, cap / instance.ticks_per_core):
        return "cap"
    floor_cores = floor / instance.ticks_per_core
    return "floor" if floor and (total < floor_cores or close(total, floor_cores)) else ""


def _full_hosts(instance: Instance, cores: Sequence[float]) -> list[bool]:
    used = [0.0] * len(instance.hosts)
    for host, amount in zip(instance.arc_host, cores, strict=True):
        used[host] += amount
    return [
        amount > room / instance.ticks_per_core or close(amount, room / instance.ticks_per_core)
        for amount, room in zip(used, instance.capacity, strict=True)
    ]


def _capacity(instance: Instance, node: int, binding: list[str], cores: Sequence[float], full: list[bool]) -> str:
    above = instance.parent[node]
    while above >= 0:
        if binding[above] == "cap":
            return f"cap of {instance.path[above]}"
        above = instance.parent[above]
    hosts: set[int] = set()
    pending = [node]
    while pending:
        leaf = pending.pop()
        pending += instance.children[leaf]
        for arc in range(instance.arc_start[leaf], instance.arc_start[leaf + 1]):
            host = instance.arc_host[arc]
            limit = instance.arc_demand[arc] / instance.ticks_per_core
            if full[host] and (
                instance.arc_demand[arc] >= instance.capacity[host] or cores[arc] < limit * (1 - ROUNDING)
            ):
                hosts.add(host)
    names = [instance.hosts[host] for host in sorted(hosts)]
    if len(names) > _NAMED_HOSTS:
        return f"capacity of {', '.join(names[:_NAMED_HOSTS])} and {len(names) - _NAMED_HOSTS} more"
    return f"capacity of {', '.join(names)}" if names else "capacity"


def _min_max_ratio(instance: Instance, total: list[float], binding: list[str]) -> float:
    groups: dict[int, list[float]] = {}
    for node, above in enumerate(instance.parent):
        if not binding[node]:
            groups.setdefault(above, []).append(total[node] / instance.share[node])
    ratios = [min(levels) / max(levels) for levels in groups.values() if len(levels) > 1 and max(levels) > 0.0]
    return min(ratios, default=1.0)
