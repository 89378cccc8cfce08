"""The check of mode ``host``: on every host and among every group of siblings, weighted max-min between bounds."""

from __future__ import annotations

import numpy as np

from utilctl_controller.allocation.arcs import FloatArray
from utilctl_controller.allocation.certificate import TOLERANCE, allowance
from utilctl_controller.allocation.instance import Instance
from utilctl_controller.allocation.static import LARGE_ARCS, is_plain, per_host_bounds


def host_violations(instance: Instance, granted: FloatArray) -> list[str]:
    """Where a host's division of its own cores is not weighted max-min; ``granted`` is in cores, by arc."""
    unit = instance.ticks_per_core
    floors, caps = per_host_bounds(instance)
    if is_plain(instance, floors, caps) and len(instance.arcs) >= LARGE_ARCS:
        return _plain_violations(instance, granted)
    arcs_of: list[list[int]] = [[] for _ in instance.hosts]
    for arc, host in enumerate(instance.arc_host):
        arcs_of[host].append(arc)
    found: list[str] = []
    for host, arcs in enumerate(arcs_of):
        demand: dict[int, float] = {}
        low: dict[int, float] = {}
        high: dict[int, float] = {}
        got: dict[int, float] = {}
        groups: dict[int, list[int]] = {}
        for arc in arcs:
            leaf = instance.arc_leaf[arc]
            demand[leaf] = high[leaf] = instance.arc_demand[arc] / unit
            low[leaf], got[leaf] = 0.0, granted[arc]
        pending = sorted(demand)
        while pending:
            node = max(pending)  # children have larger numbers than their parents
            pending.remove(node)
            if (cap := caps[node]) is not None:
                high[node] = min(high[node], demand[node] * cap[0] / cap[1])
            if (floor := floors[node]) is not None:
                low[node] = max(low[node], demand[node] * floor[0] / floor[1])
            low[node] = min(low[node], high[node])
            above = instance.parent[node]
            groups.setdefault(above, []).append(node)
            if above >= 0:
                if above not in demand:
                    demand[above] = low[above] = high[above] = got[above] = 0.0
                    pending.append(above)
                for sums in (demand, low, high, got):
                    sums[above] += sums[node]
        got[-1] = instance.capacity[host] / unit
        for above, members in groups.items():
            found += [
                f"{instance.path[node]} could gain on host {instance.hosts[host]}"
                for node in _unfair_siblings(instance, got[above], sorted(members), low, high, got)
            ]
    return found


def _plain_violations(instance: Instance, granted: FloatArray) -> list[str]:
    """As host_violations for many SEEs without children, floors and caps: all at once, by the same definition."""
    unit, hosts = instance.ticks_per_core, len(instance.hosts)
    host = instance.arcs.host
    share = np.array(instance.share)[instance.arcs.leaf]
    got, high = granted, instance.arcs.demand / unit
    capacity = np.array(instance.capacity, dtype=np.float64) / unit
    margin = TOLERANCE * np.maximum(1.0, got)
    short = got < high - TOLERANCE * np.maximum(1.0, high)
    idle = np.bincount(host, got, hosts) < capacity - TOLERANCE * np.maximum(1.0, capacity)
    best = np.zeros(hosts)
    givers = got > TOLERANCE
    np.maximum.at(best, host[givers], ((got - margin) / share)[givers])
    unfair = short & (idle[host] | ((got + margin) / share < best[host]))
    return [
        f"{instance.path[instance.arc_leaf[arc]]} could gain on host {instance.hosts[instance.arc_host[arc]]}"
        for arc in np.flatnonzero(unfair).tolist()
    ]


def _unfair_siblings(
    instance: Instance,
    available: float,
    members: list[int],
    low: dict[int, float],
    high: dict[int, float],
    got: dict[int, float],
) -> list[int]:
    short = [node for node in members if got[node] < high[node] - allowance(high[node])]
    if not short:
        return []
    if sum(got[node] for node in members) < available - allowance(available):
        return short
    floors = sum(low[node] for node in members)
    if floors > available + allowance(available):
        scale = available / floors
        return [node for node in members if abs(got[node] - low[node] * scale) > allowance(low[node])]
    below_floor = [node for node in short if got[node] < low[node] - allowance(low[node])]
    givers = [node for node in members if got[node] > low[node] + allowance(low[node])]
    best = max(((got[node] - allowance(got[node])) / instance.share[node] for node in givers), default=0.0)
    return below_floor + [node for node in short if (got[node] + allowance(got[node])) / instance.share[node] < best]
