"""An independent check of an allocation against its problem: limits, guarantees and the proof of fairness.

Shares no code with the search for the allocation. In mode ``host`` there is nothing to search: each host's division is
checked against the definition of weighted max-min between the bounds of `static`.
"""

from __future__ import annotations

import numpy as np

from utilctl_controller.allocation.arcs import FloatArray
from utilctl_controller.allocation.certificate import (
    TOLERANCE,
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
    granted = _granted(instance, rows)
    _check_demand(problem, instance, rows, granted, found)
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


def _check_demand(
    problem: AllocationProblem,
    instance: Instance,
    rows: dict[str, SeeAllocation],
    granted: FloatArray,
    found: list[str],
) -> None:
    """Nothing is granted where there is no demand, and no more than it anywhere."""
    arcs = instance.arcs
    good = (granted >= 0.0) & (granted <= arcs.wanted + TOLERANCE * np.maximum(1.0, arcs.wanted))
    counts = {instance.path[node]: len(names) for node, names in arcs.names.items()}
    if good.all() and all(len(row.own_host_cores) == counts.get(name, 0) for name, row in rows.items()):
        return  # an arc for every grant, and the other way round
    for see in problem.sees:
        demand = see.demand_cores
        for host, cores in rows[see.name].own_host_cores.items():
            wanted = demand.get(host, 0.0)
            if not 0.0 <= cores <= wanted + allowance(wanted):
                found.append(f"{see.name} gets {cores:.9g} cores on {host}, where its demand is {wanted:.9g}")


def _granted(instance: Instance, rows: dict[str, SeeAllocation]) -> FloatArray:
    """What the rows grant on every arc: 0 where they do not name it."""
    granted = np.zeros(len(instance.arcs))
    for node, names in instance.arcs.names.items():
        own = rows[instance.path[node]].own_host_cores
        first, last = instance.arc_start[node], instance.arc_start[node + 1]
        if tuple(own) == names:
            granted[first:last] = np.fromiter(own.values(), np.float64, last - first)
        else:
            granted[first:last] = [own.get(name, 0.0) for name in names]
    return granted


def _totals(instance: Instance, granted: FloatArray) -> list[float]:
    totals: list[float] = np.bincount(instance.arcs.leaf, granted, len(instance.parent)).tolist()
    for node in range(len(totals) - 1, -1, -1):
        if instance.parent[node] >= 0:
            totals[instance.parent[node]] += totals[node]
    return totals


def _check_sums(instance: Instance, rows: dict[str, SeeAllocation], totals: list[float], found: list[str]) -> None:
    for node, total in enumerate(totals):
        if not instance.listed[node]:
            continue
        row = rows[instance.path[node]]
        hosts = sum(row.host_cores.values())
        if abs(row.total_cores - total) > allowance(total) or abs(hosts - total) > allowance(total):
            found.append(
                f"{row.name} has a total of {row.total_cores:.9g} cores, on hosts {hosts:.9g}, "
                f"from its parts {total:.9g}"
            )


def _check_capacity(instance: Instance, granted: FloatArray, found: list[str]) -> None:
    used = np.bincount(instance.arcs.host, granted, len(instance.hosts))
    capacity = np.array(instance.capacity, dtype=np.float64) / instance.ticks_per_core
    over = ~(used <= capacity + TOLERANCE * np.maximum(1.0, capacity))  # also where it is NaN
    found += [
        f"host {instance.hosts[host]} grants {used[host]:.9g} cores of {capacity[host]:.9g}"
        for host in np.flatnonzero(over).tolist()
    ]


def _unfairness(instance: Instance, granted: FloatArray, totals: list[float]) -> list[str]:
    unit = instance.ticks_per_core
    residual = residual_of(instance, granted, totals, [most / unit for most in instance.upper])
    floors = [floor / unit for floor in instance.floor]
    protected = [0.0] * len(totals)
    found = _short_of(residual, floors, protected, "floor")
    protected = [min(total, floor) for total, floor in zip(totals, floors, strict=True)]
    if instance.mode == "fleet-with-floor":
        static = _totals(instance, static_grants(instance) / unit)
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
