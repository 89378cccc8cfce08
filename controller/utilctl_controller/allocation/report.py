"""From ticks on arcs to the allocation as people and the controller read it: totals, bottlenecks, ratio."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from utilctl_controller.allocation.arcs import FloatArray, IntArray
from utilctl_controller.allocation.instance import Instance
from utilctl_controller.allocation.model import Allocation, AllocationProblem, SeeAllocation

BoolArray = NDArray[np.bool_]

ROUNDING: Final = 1e-9
"""Relative difference, and cores, below which two amounts count as equal: far below what a host can enforce."""

_NAMED_HOSTS: Final = 8
"""Hosts named in a bottleneck before it says how many more there are. Arbitrary: one line on a screen."""


def close(left: float, right: float) -> bool:
    """Equal but for rounding."""
    return abs(left - right) <= ROUNDING * max(1.0, abs(left), abs(right))


def describe(problem: AllocationProblem, instance: Instance, cores: FloatArray, notes: list[str]) -> Allocation:
    """The allocation that grants ``cores`` on every arc."""
    nodes = len(instance.parent)
    own: list[dict[str, float]] = [{} for _ in range(nodes)]
    amounts: list[float] = cores.tolist()
    for node, names in instance.arcs.names.items():
        own[node] = dict(zip(names, amounts[instance.arc_start[node] : instance.arc_start[node + 1]], strict=True))
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
    squeezed = _squeezed_arcs(instance, cores)
    sees = [
        SeeAllocation(
            instance.path[node], total[node], by_host[node],
            binding[node] or _capacity(instance, node, binding, squeezed), own_of[node],
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


def _squeezed_arcs(instance: Instance, cores: FloatArray) -> BoolArray:
    """By arc, whether a full host gives less than is wanted there, or all that it has."""
    unit, host, limit = instance.ticks_per_core, instance.arcs.host, instance.arcs.demand
    room = np.array(instance.capacity, dtype=np.float64)
    used = np.bincount(host, cores, len(room))
    full = used >= room / unit - ROUNDING * np.maximum(1.0, np.maximum(used, room / unit))
    squeezed: BoolArray = full[host] & ((limit >= room[host]) | (cores < limit / unit * (1 - ROUNDING)))
    return squeezed


def _capacity(instance: Instance, node: int, binding: list[str], squeezed: BoolArray) -> str:
    above = instance.parent[node]
    while above >= 0:
        if binding[above] == "cap":
            return f"cap of {instance.path[above]}"
        above = instance.parent[above]
    pieces: list[IntArray] = []
    pending = [node]
    while pending:
        leaf = pending.pop()
        pending += instance.children[leaf]
        first, last = instance.arc_start[leaf], instance.arc_start[leaf + 1]
        if first < last:
            pieces.append(instance.arcs.host[first:last][squeezed[first:last]])
    hosts = pieces[0] if len(pieces) == 1 else np.unique(np.concatenate(pieces)) if pieces else np.zeros(0, np.int64)
    names = [instance.hosts[host] for host in hosts[:_NAMED_HOSTS].tolist()]
    if len(hosts) > _NAMED_HOSTS:
        return f"capacity of {', '.join(names)} and {len(hosts) - _NAMED_HOSTS} more"
    return f"capacity of {', '.join(names)}" if names else "capacity"


def _min_max_ratio(instance: Instance, total: list[float], binding: list[str]) -> float:
    groups: dict[int, list[float]] = {}
    for node, above in enumerate(instance.parent):
        if not binding[node]:
            groups.setdefault(above, []).append(total[node] / instance.share[node])
    ratios = [min(levels) / max(levels) for levels in groups.values() if len(levels) > 1 and max(levels) > 0.0]
    return min(ratios, default=1.0)
