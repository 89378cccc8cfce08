"""An independent check of an allocation against its problem: limits, guarantees and the proof of fairness.

Shares no code with the search for the allocation. In mode ``host`` there is nothing to search: each host's division is
checked against the definition of weighted max-min between the bounds of `static`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from utilctl_controller.allocation.certificate import (
    Contest,
    Residual,
    allowance,
    residual_of,
    unfair,
)
from utilctl_controller.allocation.instance import Instance, compile_problem
from utilctl_controller.allocation.model import Allocation, AllocationProblem, SeeAllocation
from utilctl_controller.allocation.static import static_grants
from utilctl_controller.allocation.verify_host import host_violations


def verify(problem: AllocationProblem, allocation: Allocation) -> tuple[str, ...]:
    """What is wrong with ``allocation``, one sentence each; empty if nothing. Raises UsageError for a bad problem.

    Checks form, demand, capacity, floors, caps, and that nobody with unmet demand can gain without somebody no better
    off losing: among siblings at every depth, the top level first.
    """
    return verify_compiled(problem, compile_problem(problem), allocation)


def verify_compiled(problem: AllocationProblem, instance: Instance, allocation: Allocation) -> tuple[str, ...]:
    """As verify, for a problem already compiled."""
    rows = {see.name: see for see in allocation.sees}
    names = sorted(see.name for see in problem.sees)
    if [see.name for see in allocation.sees] != names:
        return ("the allocation does not list every service once, sorted by name",)
    if allocation.mode != problem.mode:
        return (f"the allocation is for mode {allocation.mode}, the problem for {problem.mode}",)
    found: list[str] = []
    _check_demand(problem, rows, found)
    granted = _granted(instance, rows)
    totals = _totals(instance, granted)
    _check_sums(instance, rows, totals, found)
    _check_capacity(instance, granted, found)
    for node, cap in enumerate(instance.cap):
        if cap is not None and totals[node] > (limit := cap / instance.ticks_per_core) + allowance(limit):
            found.append(f"{instance.path[node]} gets {totals[node]:.9g} cores, more than its cap {limit:.9g}")
    if found:
        return tuple(found)
    if problem.mode == "host":
        return tuple(host_violations(instance, granted))
    return tuple(_unfairness(instance, granted, totals))


def _check_demand(problem: AllocationProblem, rows: dict[str, SeeAllocation], found: list[str]) -> None:
    for see in problem.sees:
        demand = see.demand_cores
        for host, cores in rows[see.name].own_host_cores.items():
            wanted = demand.get(host, 0.0)
            if not (0.0 <= cores <= wanted or 0.0 <= cores <= wanted + allowance(wanted)):
                found.append(f"{see.name} gets {cores:.9g} cores on {host}, where its demand is {wanted:.9g}")


def _granted(instance: Instance, rows: dict[str, SeeAllocation]) -> list[float]:
    granted: list[float] = []
    for node in range(len(instance.parent)):
        first, last = instance.arc_start[node], instance.arc_start[node + 1]
        if first < last:
            own = rows[instance.path[node]].own_host_cores
            granted += [own.get(instance.hosts[host], 0.0) for host in instance.arc_host[first:last]]
    return granted


def _totals(instance: Instance, granted: Sequence[float]) -> list[float]:
    totals = [math.fsum(granted[first:last]) for first, last in pairwise(instance.arc_start)]
    for node in range(len(totals) - 1, -1, -1):
        if instance.parent[node] >= 0:
            totals[instance.parent[node]] += totals[node]
    return totals


def _check_sums(instance: Instance, rows: dict[str, SeeAllocation], totals: list[float], found: list[str]) -> None:
    for node, total in enumerate(totals):
        if not instance.listed[node]:
            continue
        row = rows[instance.path[node]]
        hosts = math.fsum(row.host_cores.values())
        if abs(row.total_cores - total) > allowance(total) or abs(hosts - total) > allowance(total):
            found.append(
                f"{row.name} has a total of {row.total_cores:.9g} cores, on hosts {hosts:.9g}, "
                f"from its parts {total:.9g}"
            )


def _check_capacity(instance: Instance, granted: Sequence[float], found: list[str]) -> None:
    used = np.bincount(np.array(instance.arc_host, dtype=np.int64), granted, len(instance.hosts))
    for host, cores in enumerate(used.tolist()):
        capacity = instance.capacity[host] / instance.ticks_per_core
        if cores > capacity + allowance(capacity):
            found.append(f"host {instance.hosts[host]} grants {cores:.9g} cores of {capacity:.9g}")


def _unfairness(instance: Instance, granted: Sequence[float], totals: list[float]) -> list[str]:
    unit = instance.ticks_per_core
    residual = residual_of(instance, granted, totals, [most / unit for most in instance.upper])
    floors = [floor / unit for floor in instance.floor]
    protected = [0.0] * len(totals)
    found = _short_of(residual, floors, protected, "floor")
    protected = [min(total, floor) for total, floor in zip(totals, floors, strict=True)]
    if instance.mode == "fleet-with-floor":
        static = _totals(instance, [ticks / unit for ticks in static_grants(instance)])
        found += _short_of(residual, static, protected, "static share")
        protected = [max(kept, min(total, least)) for kept, total, least in zip(protected, totals, static, strict=True)]
    for depth in range(1, instance.levels + 1):
        contest = _siblings(residual, depth, protected)
        found += [
            f"{instance.path[node]} gets {totals[node]:.9g} cores and could gain from services that are better off"
            for node in unfair(residual, contest)
        ]
    return found


def _short_of(residual: Residual, wanted: list[float], protected: list[float], what: str) -> list[str]:
    """Guarantees that are not met although they could be, at no cost to a guarantee met to a lesser degree."""
    totals = residual.totals
    short = [
        node
        for node, least in enumerate(wanted)
        if totals[node] < least - allowance(least) and totals[node] < residual.upper[node]
    ]
    if not short:
        return []
    everyone = [True] * len(totals)
    contest = Contest(short, wanted, everyone, protected, everyone)
    return [
        f"{residual.instance.path[node]} gets {totals[node]:.9g} cores, below its {what} of {wanted[node]:.9g}, "
        "although more is possible"
        for node in unfair(residual, contest)
    ]


def _siblings(residual: Residual, depth: int, protected: list[float]) -> Contest:
    """Fairness among siblings at ``depth``: what is above is settled, what is below follows."""
    instance, totals = residual.instance, residual.totals
    weight = [0.0] * len(totals)
    for node, above in enumerate(instance.parent):
        if instance.depth[node] != depth:
            continue
        weight[node] = instance.share[node]
        if above >= 0:
            active = sum(instance.share[child] for child in instance.children[above] if instance.upper[child] > 0)
            weight[node] *= totals[above] / active if active else 0.0
    at_depth = [node_depth == depth for node_depth in instance.depth]
    short = [node for node, here in enumerate(at_depth) if here and weight[node] > 0.0]
    return Contest(
        short, weight, at_depth, protected, [node_depth >= depth for node_depth in instance.depth], depth == 1
    )
